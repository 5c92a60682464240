/**
 * A small client of the Centrifuge protocol in JSON: one socket that comes back by itself and recovers what it missed.
 * Apps use an official SDK; this page shows how little the protocol asks for.
 */

const FIRST_RETRY_MS = 400;
const LONGEST_RETRY_MS = 15_000;
const ANSWER_MS = 10_000;
const LATE_PING_MS = 10_000;
const TOKEN_EXPIRED = 109;

/** An answer that says no, or none at all. */
export class RpcError extends Error {
  constructor({ code, message, temporary = false }) {
    super(message);
    this.code = code;
    this.temporary = temporary;
  }
}

const noAnswer = () => new RpcError({ code: 0, message: "no_connection", temporary: true });

/** Close codes after which coming back is of no use. */
const isFinal = (code) => (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

export class Socket {
  #url;
  #token;
  #heard;
  #socket = null;
  #waiting = new Map();
  #nextId = 1;
  #positions = new Map();
  #own = new Set();
  #tries = 0;
  #isTokenStale = false;
  #retryTimer = 0;
  #pingTimer = 0;
  #tokenTimer = 0;
  #pingMs = 25_000;

  /**
   * @param {string} url
   * @param {(fresh: boolean) => Promise<string>} token gives an access token; throws `{isFinal: true}` when there is none
   * @param {object} heard called with what happens: open, away, ended, publication, joined, left, gap
   */
  constructor(url, token, heard) {
    this.#url = url;
    this.#token = token;
    this.#heard = heard;
    addEventListener("online", this.#hurry);
    document.addEventListener("visibilitychange", this.#hurry);
  }

  isOpen = false;

  async open() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    try {
      const token = await this.#token(this.#isTokenStale);
      this.#isTokenStale = false;
      const socket = (this.#socket = new WebSocket(this.#url));
      socket.onopen = () => this.#greet(token);
      socket.onmessage = ({ data }) => socket === this.#socket && this.#read(data);
      socket.onclose = ({ code }) => socket === this.#socket && this.#lost(code);
    } catch (error) {
      if (error.isFinal) this.#end();
      else this.#lost(0);
    }
  }

  close() {
    removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
    const socket = this.#socket;
    this.#socket = null;
    this.#forget();
    clearTimeout(this.#retryTimer);
    socket?.close();
  }

  rpc(method, data = {}) {
    if (!this.isOpen) return Promise.reject(noAnswer());
    return this.#ask({ rpc: { method, data } }).then((reply) => reply.rpc.data);
  }

  /** Hear a channel that the server does not put us on by itself. */
  subscribe(channel) {
    if (this.#own.has(channel)) return;
    this.#own.add(channel);
    if (this.isOpen) this.#subscribe(channel);
  }

  unsubscribe(channel) {
    if (!this.#own.delete(channel)) return;
    this.#positions.delete(channel);
    if (this.isOpen) this.#ask({ unsubscribe: { channel } }).catch(() => {});
  }

  #hurry = () => {
    if (this.#retryTimer && document.visibilityState === "visible") this.open();
  };

  async #greet(token) {
    const subs = {};
    for (const [channel, position] of this.#positions)
      if (!this.#own.has(channel)) subs[channel] = { recover: true, ...position };
    try {
      const { connect } = await this.#ask({ connect: { token, subs, name: "roost-page" } });
      this.#connected(connect);
    } catch (error) {
      this.#isTokenStale = error.code === TOKEN_EXPIRED;
      this.#socket?.close();
    }
  }

  #connected(connect) {
    this.#tries = 0;
    this.isOpen = true;
    this.#pingMs = (connect.ping ?? 25) * 1000;
    if (connect.expires) this.#tokenTimer = setTimeout(this.#refresh, Math.max(connect.ttl - 30, 1) * 1000);
    const subs = connect.subs ?? {};
    for (const channel of this.#positions.keys())
      if (!(channel in subs) && !this.#own.has(channel)) this.#positions.delete(channel);
    for (const [channel, result] of Object.entries(subs)) this.#subscribed(channel, result);
    for (const channel of this.#own) this.#subscribe(channel);
    this.#heard.open(connect.data);
  }

  async #subscribe(channel) {
    const position = this.#positions.get(channel);
    try {
      const { subscribe } = await this.#ask({ subscribe: { channel, ...(position && { recover: true, ...position }) } });
      if (this.#own.has(channel)) this.#subscribed(channel, subscribe);
    } catch (error) {
      if (!error.temporary) this.#own.delete(channel);
    }
  }

  #subscribed(channel, { offset = 0, epoch = "", publications = [], recovered = false, was_recovering = false }) {
    if (was_recovering && !recovered) this.#heard.gap(channel);
    for (const publication of publications) this.#heard.publication(channel, publication.data);
    this.#positions.set(channel, { offset, epoch });
  }

  #refresh = async () => {
    try {
      const token = await this.#token(true);
      const { refresh } = await this.#ask({ refresh: { token } });
      if (refresh.expires) this.#tokenTimer = setTimeout(this.#refresh, Math.max(refresh.ttl - 30, 1) * 1000);
    } catch (error) {
      if (error.isFinal) this.#end();
    }
  };

  #ask(command) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, { error: { code: 0, message: "timeout", temporary: true } }), ANSWER_MS);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#socket.send(JSON.stringify({ id, ...command }));
    });
  }

  #settle(id, reply) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (reply.error) waiting.reject(new RpcError(reply.error));
    else waiting.resolve(reply);
  }

  #read(frame) {
    this.#awaitPing();
    for (const line of frame.split("\n")) if (line) this.#hear(JSON.parse(line));
  }

  #hear(reply) {
    if (reply.id) this.#settle(reply.id, reply);
    else if (reply.push) this.#pushed(reply.push);
    else this.#socket.send("{}");
  }

  #pushed({ channel, pub, subscribe, unsubscribe }) {
    if (pub) {
      const position = this.#positions.get(channel);
      if (pub.offset && position) {
        if (pub.offset <= position.offset) return;
        position.offset = pub.offset;
      }
      this.#heard.publication(channel, pub.data);
    } else if (subscribe) {
      this.#positions.set(channel, { offset: subscribe.offset ?? 0, epoch: subscribe.epoch ?? "" });
      this.#heard.joined(channel);
    } else if (unsubscribe) {
      // From 2500 on the client is asked to subscribe again.
      if (unsubscribe.code >= 2500 && this.#own.has(channel)) return void this.#subscribe(channel);
      this.#own.delete(channel);
      this.#positions.delete(channel);
      this.#heard.left(channel);
    }
  }

  #awaitPing() {
    clearTimeout(this.#pingTimer);
    this.#pingTimer = setTimeout(() => this.#lost(0), this.#pingMs + LATE_PING_MS);
  }

  #lost(code) {
    const socket = this.#socket;
    this.#socket = null;
    this.#forget();
    socket?.close();
    if (isFinal(code)) return this.#end();
    this.#heard.away();
    const most = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#tries++);
    this.#retryTimer = setTimeout(() => this.open(), most / 2 + (Math.random() * most) / 2);
  }

  #end() {
    this.close();
    this.#heard.ended();
  }

  /** Nothing that was asked for will be answered any more. */
  #forget() {
    this.isOpen = false;
    clearTimeout(this.#pingTimer);
    clearTimeout(this.#tokenTimer);
    for (const id of [...this.#waiting.keys()]) this.#settle(id, { error: { code: 0, message: "no_connection", temporary: true } });
  }
}
