// A phone on the official SDK (io.github.centrifugal:centrifuge-java, which speaks Protobuf only), driven by the same lines of
// JSON as ../../../../js/phone.mjs: {"do": "connect", "url": "ws://…/connection/websocket", "token": "…"} and so on.

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.github.centrifugal.centrifuge.*;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

public class Phone {
    private static final Gson GSON = new GsonBuilder().serializeNulls().create();
    private static Client client;

    /** Writes one event as a line; the fields are given as name, value, name, value. */
    private static synchronized void say(String event, Object... fields) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("event", event);
        for (int i = 0; i < fields.length; i += 2) line.put((String) fields[i], fields[i + 1]);
        System.out.println(GSON.toJson(line));
        System.out.flush();
    }

    private static JsonElement unpack(byte[] data) {
        if (data == null || data.length == 0) return JsonNull.INSTANCE;
        return JsonParser.parseString(new String(data, StandardCharsets.UTF_8));
    }

    private static byte[] pack(JsonObject command) {
        return GSON.toJson(command.get("data")).getBytes(StandardCharsets.UTF_8);
    }

    /** The tokens of a connection or a subscription, one after another; the last one stays. */
    private static class Giver {
        private final ArrayDeque<String> left = new ArrayDeque<>();
        private final String channel;

        Giver(JsonObject chosen, String channel) {
            this.channel = channel;
            left.add(chosen.get("token").getAsString());
            if (chosen.has("next_tokens")) chosen.getAsJsonArray("next_tokens").forEach(token -> left.add(token.getAsString()));
        }

        String next() {
            say("token", "channel", channel);
            if (left.size() > 1) left.remove();
            return left.peek();
        }
    }

    private static void connect(JsonObject command) {
        Giver giver = new Giver(command, "");
        Options options = new Options();
        options.setToken(command.get("token").getAsString());
        options.setTokenGetter(new ConnectionTokenGetter() {
            @Override
            public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                callback.Done(null, giver.next());
            }
        });
        options.setMinReconnectDelay(50);
        options.setMaxReconnectDelay(500);
        client = new Client(command.get("url").getAsString(), options, new Events());
        client.connect();
    }

    /** Says what happens to the connection and to the subscriptions that the server made. */
    private static class Events extends EventListener {
        @Override
        public void onConnected(Client client, ConnectedEvent e) {
            say("connected", "client", e.getClient(), "data", unpack(e.getData()));
        }

        @Override
        public void onDisconnected(Client client, DisconnectedEvent e) {
            say("disconnected", "code", e.getCode(), "reason", e.getReason());
        }

        @Override
        public void onSubscribed(Client client, ServerSubscribedEvent e) {
            say("subscribed", "channel", e.getChannel(), "was_recovering", e.wasRecovering(), "recovered", e.getRecovered());
        }

        @Override
        public void onUnsubscribed(Client client, ServerUnsubscribedEvent e) {
            say("unsubscribed", "channel", e.getChannel());
        }

        @Override
        public void onPublication(Client client, ServerPublicationEvent e) {
            say("publication", "channel", e.getChannel(), "offset", e.getOffset(), "data", unpack(e.getData()));
        }
    }

    /** The same for a subscription that the phone made itself. */
    private static class ChannelEvents extends SubscriptionEventListener {
        @Override
        public void onSubscribed(Subscription s, SubscribedEvent e) {
            say("subscribed", "channel", s.getChannel(), "was_recovering", e.wasRecovering(), "recovered", e.getRecovered());
        }

        @Override
        public void onUnsubscribed(Subscription s, UnsubscribedEvent e) {
            say("unsubscribed", "channel", s.getChannel(), "code", e.getCode(), "reason", e.getReason());
        }

        @Override
        public void onPublication(Subscription s, PublicationEvent e) {
            say("publication", "channel", s.getChannel(), "offset", e.getOffset(), "data", unpack(e.getData()));
        }

        @Override
        public void onJoin(Subscription s, JoinEvent e) {
            say("join", "channel", s.getChannel(), "user", e.getInfo().getUser());
        }

        @Override
        public void onLeave(Subscription s, LeaveEvent e) {
            say("leave", "channel", s.getChannel(), "user", e.getInfo().getUser());
        }
    }

    private static void subscribe(String channel, JsonObject chosen) throws DuplicateSubscriptionException {
        SubscriptionOptions options = new SubscriptionOptions();
        options.setJoinLeave(chosen.has("joinLeave"));
        if (chosen.has("token")) {
            Giver giver = new Giver(chosen, channel);
            options.setToken(chosen.get("token").getAsString());
            options.setTokenGetter(new SubscriptionTokenGetter() {
                @Override
                public void getSubscriptionToken(SubscriptionTokenEvent event, TokenCallback callback) {
                    callback.Done(null, giver.next());
                }
            });
        }
        client.newSubscription(channel, options, new ChannelEvents()).subscribe();
    }

    private static <T> ResultCallback<T> answer(JsonObject command, java.util.function.Function<T, Object> show) {
        int id = command.get("id").getAsInt();
        return (error, result) -> {
            if (error == null) {
                say("reply", "id", id, "data", show.apply(result));
                return;
            }
            Throwable refused = error instanceof ReplyError ? error : error.getCause();
            int code = refused instanceof ReplyError ? ((ReplyError) refused).getCode() : 0;
            say("reply", "id", id, "error", Map.of("code", code, "message", String.valueOf(error.getMessage())));
        };
    }

    private static Object show(PresenceResult result) {
        Map<String, Object> there = new LinkedHashMap<>();
        result.getClients().forEach((id, info) -> there.put(id, Map.of("user", info.getUser())));
        return there;
    }

    private static Object show(HistoryResult result) {
        List<Object> publications = new ArrayList<>();
        for (Publication p : result.getPublications())
            publications.add(Map.of("data", unpack(p.getData()), "offset", p.getOffset()));
        return Map.of("publications", publications, "offset", result.getOffset(), "epoch", result.getEpoch());
    }

    private static void perform(JsonObject command) throws Exception {
        String channel = command.has("channel") ? command.get("channel").getAsString() : "";
        JsonObject options = command.has("options") ? command.getAsJsonObject("options") : new JsonObject();
        switch (command.get("do").getAsString()) {
            case "connect": connect(command); break;
            case "disconnect": client.disconnect(); break;
            case "reconnect": client.connect(); break;
            case "subscribe": subscribe(channel, options); break;
            case "unsubscribe": client.getSubscription(channel).unsubscribe(); break;
            case "rpc":
                client.rpc(command.get("method").getAsString(), pack(command), answer(command, (RPCResult r) -> unpack(r.getData())));
                break;
            case "publish": client.publish(channel, pack(command), answer(command, (PublishResult r) -> null)); break;
            case "presence": client.presence(channel, answer(command, (PresenceResult r) -> show(r))); break;
            case "presence_stats":
                client.presenceStats(channel, answer(command, (PresenceStatsResult r) ->
                    Map.of("numClients", r.getNumClients(), "numUsers", r.getNumUsers())));
                break;
            case "history":
                HistoryOptions.Builder asked = new HistoryOptions.Builder().withReverse(options.has("reverse"));
                if (options.has("limit")) asked.withLimit(options.get("limit").getAsInt());
                if (options.has("since")) {
                    JsonObject since = options.getAsJsonObject("since");
                    asked.withSince(new StreamPosition(since.get("offset").getAsLong(), since.get("epoch").getAsString()));
                }
                client.history(channel, asked.build(), answer(command, (HistoryResult r) -> show(r)));
                break;
            default: System.exit(0);
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (!line.isBlank()) perform(JsonParser.parseString(line).getAsJsonObject());
        }
        System.exit(0);
    }
}
