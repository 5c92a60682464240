// A phone on the official SDK (npm `centrifuge`), driven by lines of JSON on standard input and answering on standard output.
//
//   node phone.mjs   then, line by line:
//   {"do": "connect", "url": "ws://127.0.0.1:8000/connection/websocket", "token": "…"}
//   {"do": "rpc", "id": 1, "method": "message.send", "data": {…}}      {"do": "subscribe", "channel": "feed:…"}
//   {"do": "disconnect"}    {"do": "reconnect", "url": "…"}    {"do": "exit"}
//
// Every event of the SDK becomes one line: {"event": "publication", "channel": …, "offset": …, "data": …}.
// A phone that moves to another address keeps its stream positions by handing them over as the SDK's own state.

import { createInterface } from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const say = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
let client = null;
let endpoint = '';

function listen() {
  client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
  client.on('connected', ({ client: id, data }) => say('connected', { client: id, data }));
  client.on('disconnected', ({ code, reason }) => say('disconnected', { code, reason }));
  client.on('error', ({ error }) => say('error', { error }));
  client.on('subscribed', ({ channel, wasRecovering, recovered, streamPosition }) =>
    say('subscribed', { channel, was_recovering: wasRecovering, recovered, position: streamPosition }));
  client.on('unsubscribed', ({ channel }) => say('unsubscribed', { channel }));
  client.on('publication', ({ channel, data, offset }) => say('publication', { channel, offset, data }));
}

function subscribe(channel) {
  const subscription = client.newSubscription(channel);
  subscription.on('subscribed', ({ wasRecovering, recovered, streamPosition }) =>
    say('subscribed', { channel, was_recovering: wasRecovering, recovered, position: streamPosition }));
  subscription.on('unsubscribed', ({ code, reason }) => say('unsubscribed', { channel, code, reason }));
  subscription.on('error', ({ error }) => say('error', { channel, error }));
  subscription.on('publication', ({ data, offset }) => say('publication', { channel, offset, data }));
  subscription.subscribe();
}

const actions = {
  connect({ url, token }) {
    endpoint = url;
    // The address is asked for at every try, so that the same client can move to another process.
    class Moving extends WebSocket {
      constructor(_, protocols) { super(endpoint, protocols); }
    }
    client = new Centrifuge(url, { websocket: Moving, token, getToken: async () => token, minReconnectDelay: 50, maxReconnectDelay: 500 });
    listen();
    client.connect();
  },
  disconnect() { client.disconnect(); },
  reconnect({ url }) { endpoint = url ?? endpoint; client.connect(); },
  subscribe({ channel }) { subscribe(channel); },
  async rpc({ id, method, data }) {
    try {
      const reply = await client.rpc(method, data);
      say('reply', { id, data: reply.data });
    } catch (error) {
      say('reply', { id, error: { code: error.code, message: error.message, temporary: error.temporary } });
    }
  },
  async publish({ id, channel, data }) {
    try {
      await client.publish(channel, data);
      say('reply', { id, data: null });
    } catch (error) {
      say('reply', { id, error: { code: error.code, message: error.message } });
    }
  },
  exit() { client?.disconnect(); process.exit(0); },
};

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) {
    const command = JSON.parse(line);
    actions[command.do](command);
  }
}
process.exit(0);
