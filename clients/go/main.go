// A phone on the official SDK (github.com/centrifugal/centrifuge-go), driven by the same lines of JSON as ../js/phone.mjs.
//
//	go run . (or: go run . --protobuf)   then {"do": "connect", "url": "ws://…/connection/websocket", "token": "…"} and so on
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge-go"
)

type fields map[string]any

var output sync.Mutex

// say writes one event as a line.
func say(event string, more fields) {
	line := fields{"event": event}
	for name, value := range more {
		line[name] = value
	}
	output.Lock()
	defer output.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

type command struct {
	Do      string          `json:"do"`
	ID      int             `json:"id"`
	URL     string          `json:"url"`
	Token   string          `json:"token"`
	Channel string          `json:"channel"`
	Method  string          `json:"method"`
	Data    json.RawMessage `json:"data"`
	Next    []string        `json:"next_tokens"`
	Options struct {
		Token     string   `json:"token"`
		Next      []string `json:"next_tokens"`
		JoinLeave bool     `json:"joinLeave"`
		Delta     string   `json:"delta"`
		Limit     int32    `json:"limit"`
		Reverse   bool     `json:"reverse"`
		Since     *struct {
			Offset uint64 `json:"offset"`
			Epoch  string `json:"epoch"`
		} `json:"since"`
	} `json:"options"`
}

// giver hands out the tokens of a connection or a subscription, one after another; the last one stays.
func giver(token string, next []string, channel string) func() (string, error) {
	return func() (string, error) {
		say("token", fields{"channel": channel})
		if len(next) > 0 {
			token, next = next[0], next[1:]
		}
		return token, nil
	}
}

// phone is one client; a phone that moves to another address keeps its subscriptions.
type phone struct {
	client *centrifuge.Client
}

func (p *phone) connect(c command) {
	give := giver(c.Token, c.Next, "")
	config := centrifuge.Config{
		Token:             c.Token,
		GetToken:          func(centrifuge.ConnectionTokenEvent) (string, error) { return give() },
		MinReconnectDelay: 50 * time.Millisecond,
		MaxReconnectDelay: 500 * time.Millisecond,
		// The default of one second is for machines that do nothing else.
		HandshakeTimeout: 5 * time.Second,
		WriteTimeout:     5 * time.Second,
	}
	if len(os.Args) > 1 && os.Args[1] == "--protobuf" {
		p.client = centrifuge.NewProtobufClient(c.URL, config)
	} else {
		p.client = centrifuge.NewJsonClient(c.URL, config)
	}
	p.listen()
	_ = p.client.Connect()
}

func (p *phone) listen() {
	p.client.OnConnecting(func(e centrifuge.ConnectingEvent) {
		say("connecting", fields{"code": e.Code, "reason": e.Reason})
	})
	p.client.OnConnected(func(e centrifuge.ConnectedEvent) {
		say("connected", fields{"client": e.ClientID, "data": json.RawMessage(orNull(e.Data))})
	})
	p.client.OnDisconnected(func(e centrifuge.DisconnectedEvent) {
		say("disconnected", fields{"code": e.Code, "reason": e.Reason})
	})
	p.client.OnError(func(e centrifuge.ErrorEvent) { say("error", fields{"error": e.Error.Error()}) })
	p.client.OnSubscribed(func(e centrifuge.ServerSubscribedEvent) {
		say("subscribed", fields{"channel": e.Channel, "was_recovering": e.WasRecovering, "recovered": e.Recovered})
	})
	p.client.OnUnsubscribed(func(e centrifuge.ServerUnsubscribedEvent) { say("unsubscribed", fields{"channel": e.Channel}) })
	p.client.OnPublication(func(e centrifuge.ServerPublicationEvent) {
		say("publication", fields{"channel": e.Channel, "offset": e.Offset, "data": json.RawMessage(e.Data)})
	})
}

func (p *phone) subscribe(c command) {
	config := centrifuge.SubscriptionConfig{JoinLeave: c.Options.JoinLeave}
	if c.Options.Token != "" {
		config.Token = c.Options.Token
		give := giver(c.Options.Token, c.Options.Next, c.Channel)
		config.GetToken = func(centrifuge.SubscriptionTokenEvent) (string, error) { return give() }
	}
	if c.Options.Delta != "" {
		config.Delta = centrifuge.DeltaTypeFossil
	}
	subscription, err := p.client.NewSubscription(c.Channel, config)
	if err != nil {
		say("error", fields{"channel": c.Channel, "error": err.Error()})
		return
	}
	subscription.OnSubscribed(func(e centrifuge.SubscribedEvent) {
		say("subscribed", fields{"channel": c.Channel, "was_recovering": e.WasRecovering, "recovered": e.Recovered})
	})
	subscription.OnUnsubscribed(func(e centrifuge.UnsubscribedEvent) {
		say("unsubscribed", fields{"channel": c.Channel, "code": e.Code, "reason": e.Reason})
	})
	subscription.OnPublication(func(e centrifuge.PublicationEvent) {
		say("publication", fields{"channel": c.Channel, "offset": e.Offset, "data": json.RawMessage(e.Data)})
	})
	subscription.OnJoin(func(e centrifuge.JoinEvent) { say("join", fields{"channel": c.Channel, "user": e.User}) })
	subscription.OnLeave(func(e centrifuge.LeaveEvent) { say("leave", fields{"channel": c.Channel, "user": e.User}) })
	_ = subscription.Subscribe()
}

func (p *phone) ask(c command) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch c.Do {
	case "rpc":
		reply, err := p.client.RPC(ctx, c.Method, orNull(c.Data))
		return json.RawMessage(orNull(reply.Data)), err
	case "publish":
		_, err := p.client.Publish(ctx, c.Channel, orNull(c.Data))
		return nil, err
	case "presence":
		reply, err := p.client.Presence(ctx, c.Channel)
		there := map[string]fields{}
		for id, info := range reply.Clients {
			there[id] = fields{"user": info.User}
		}
		return there, err
	case "presence_stats":
		reply, err := p.client.PresenceStats(ctx, c.Channel)
		return fields{"numClients": reply.NumClients, "numUsers": reply.NumUsers}, err
	default:
		options := []centrifuge.HistoryOption{
			centrifuge.WithHistoryLimit(c.Options.Limit), centrifuge.WithHistoryReverse(c.Options.Reverse),
		}
		if since := c.Options.Since; since != nil {
			position := &centrifuge.StreamPosition{Offset: since.Offset, Epoch: since.Epoch}
			options = append(options, centrifuge.WithHistorySince(position))
		}
		reply, err := p.client.History(ctx, c.Channel, options...)
		publications := []fields{}
		for _, publication := range reply.Publications {
			publications = append(publications, fields{"data": json.RawMessage(publication.Data), "offset": publication.Offset})
		}
		return fields{"publications": publications, "offset": reply.Offset, "epoch": reply.Epoch}, err
	}
}

func (p *phone) answer(c command) {
	data, err := p.ask(c)
	var refused *centrifuge.Error
	switch {
	case err == nil:
		say("reply", fields{"id": c.ID, "data": data})
	case errors.As(err, &refused):
		say("reply", fields{"id": c.ID, "error": fields{"code": refused.Code, "message": refused.Message}})
	default:
		say("reply", fields{"id": c.ID, "error": fields{"code": 0, "message": err.Error()}})
	}
}

func (p *phone) do(c command) {
	switch c.Do {
	case "connect":
		p.connect(c)
	case "disconnect":
		_ = p.client.Disconnect()
	case "reconnect":
		_ = p.client.Connect()
	case "subscribe":
		p.subscribe(c)
	case "unsubscribe":
		if subscription, ok := p.client.GetSubscription(c.Channel); ok {
			_ = subscription.Unsubscribe()
		}
	case "exit":
		os.Exit(0)
	default:
		// In an order of their own: an answer may take longer than the next event.
		go p.answer(c)
	}
}

func orNull(data []byte) []byte {
	if len(data) == 0 {
		return []byte("null")
	}
	return data
}

func main() {
	var p phone
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err == nil {
			p.do(c)
		}
	}
}
