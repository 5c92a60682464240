// A phone on the official SDK (npm `centrifuge`), driven by lines of JSON on standard input and answering on standard output.
//
//   node phone.mjs (or: node phone.mjs --protobuf)   then, line by line:
//   {"do": "connect", "url": "ws://127.0.0.1:8000/connection/websocket", "token": "…"}
//   {"do": "rpc", "id": 1, "method": "message.send", "data": {…}}      {"do": "subscribe", "channel": "feed:…"}
//   {"do": "presence", "id": 2, "channel": "…"}    {"do": "history", "id": 3, "channel": "…", "options": {"limit": 10}}
//   {"do": "disconnect"}    {"do": "reconnect", "url": "…"}    {"do": "exit"}
// What connects or subscribes with a token may also have "next_tokens", for when the SDK wants another.
//
// Every event of the SDK becomes one line: {"event": "publication", "channel": …, "offset": …, "data": …}.
// A phone that moves to another address keeps its stream positions by handing them over as the SDK's own state.

import { createInterface } from 'node:readline';
import WebSocket from 'ws';

// The same SDK in both encodings. In Protobuf an app's data is bytes; ours is JSON in them.
const isProtobuf = process.argv.includes('--protobuf');
// Where websockets do not get through: HTTP streaming, with what the client says as requests of their own.
const isStreaming = process.argv.includes('--http-stream');
const { Centrifuge } = await import(isProtobuf ? 'centrifuge/build/protobuf' : 'centrifuge');
const pack = (data) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(data ?? null)) : data);
const unpack = (data) => (isProtobuf && data?.length ? JSON.parse(new TextDecoder().decode(data)) : data);

const say = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
let client = null;
let endpoint = '';

function listen() {
  client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
  client.on('connected', ({ client: id, data }) => say('connected', { client: id, data: unpack(data) }));
  client.on('disconnected', ({ code, reason }) => say('disconnected', { code, reason }));
  client.on('error', ({ error }) => say('error', { error }));
  client.on('subscribed', ({ channel, wasRecovering, recovered, streamPosition }) =>
    say('subscribed', { channel, was_recovering: wasRecovering, recovered, position: streamPosition }));
  client.on('unsubscribed', ({ channel }) => say('unsubscribed', { channel }));
  client.on('publication', ({ channel, data, offset }) => say('publication', { channel, offset, data: unpack(data) }));
  client.on('join', ({ channel, info }) => say('join', { channel, user: info.user }));
  client.on('leave', ({ channel, info }) => say('leave', { channel, user: info.user }));
}

// The tokens of a connection or a subscription, one after another; the last one stays.
function giver(token, next, channel) {
  const left = [...(next ?? [])];
  return async () => {
    say('token', { channel });
    return left.length ? (token = left.shift()) : token;
  };
}

function subscribe(channel, options) {
  const { token, next_tokens: next, ...rest } = options ?? {};
  const subscription = client.newSubscription(channel, { ...rest, ...(token && { token, getToken: giver(token, next, channel) }) });
  subscription.on('subscribed', ({ wasRecovering, recovered, streamPosition }) =>
    say('subscribed', { channel, was_recovering: wasRecovering, recovered, position: streamPosition }));
  subscription.on('unsubscribed', ({ code, reason }) => say('unsubscribed', { channel, code, reason }));
  subscription.on('error', ({ error }) => say('error', { channel, error }));
  subscription.on('publication', ({ data, offset, tags }) => say('publication', { channel, offset, data: unpack(data), tags }));
  subscription.on('join', ({ info }) => say('join', { channel, user: info.user }));
  subscription.on('leave', ({ info }) => say('leave', { channel, user: info.user }));
  subscription.subscribe();
}

async function answer(id, ask) {
  try {
    say('reply', { id, data: await ask() });
  } catch (error) {
    say('reply', { id, error: { code: error.code, message: error.message, temporary: error.temporary } });
  }
}

const actions = {
  connect({ url, token, next_tokens: next }) {
    endpoint = url;
    // The address is asked for at every try, so that the same client can move to another process.
    class Moving extends WebSocket {
      constructor(_, protocols) { super(endpoint, protocols); }
    }
    const http = url.replace(/^ws/, 'http').replace('/connection/websocket', '');
    const transports = isStreaming ? [{ transport: 'http_stream', endpoint: `${http}/connection/http_stream` }] : url;
    client = new Centrifuge(transports, { websocket: Moving, emulationEndpoint: `${http}/emulation`, token, getToken: giver(token, next), minReconnectDelay: 50, maxReconnectDelay: 500 });
    listen();
    client.connect();
  },
  disconnect() { client.disconnect(); },
  reconnect({ url }) { endpoint = url ?? endpoint; client.connect(); },
  subscribe({ channel, options }) { subscribe(channel, options); },
  unsubscribe({ channel }) { client.getSubscription(channel).unsubscribe(); },
  rpc: ({ id, method, data }) => answer(id, async () => unpack((await client.rpc(method, pack(data))).data)),
  publish: ({ id, channel, data }) => answer(id, async () => void (await client.publish(channel, pack(data))) ?? null),
  presence: ({ id, channel }) => answer(id, async () => (await client.presence(channel)).clients),
  presence_stats: ({ id, channel }) => answer(id, () => client.presenceStats(channel)),
  history: ({ id, channel, options }) => answer(id, async () => {
    const { publications, epoch, offset } = await client.history(channel, options);
    return { publications: publications.map((p) => ({ ...p, data: unpack(p.data) })), epoch, offset };
  }),
  exit() { client?.disconnect(); process.exit(0); },
};

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) {
    const command = JSON.parse(line);
    actions[command.do](command);
  }
}
process.exit(0);
