/** What the page knows: people, conversations, messages, and what waits to be sent. Events and answers change it here only. */

const PAGE = 50;
const TYPING_EVERY_MS = 3000;
const RECEIPT_MS = 250;
const RETRY_SEND_MS = 3000;

const isUnreadMail = (message, me) => message.sender !== me && message.kind !== "system" && !message.deleted_at;

export class Store {
  me = null;
  users = new Map();
  conversations = new Map();
  openId = null;
  hasMoreConversations = false;

  #socket = null;
  #changed;
  #cursor = null;
  #isLoadingList = false;
  #asked = new Set();
  #receipts = new Map();
  #typedAt = 0;
  #isSending = false;

  /** @param {(what: {list?: boolean, thread?: boolean, arrived?: object, removed?: string}) => void} changed */
  constructor(changed) {
    this.#changed = changed;
  }

  connect(socket) {
    this.#socket = socket;
  }

  get open() {
    return this.conversations.get(this.openId) ?? null;
  }

  get totalUnread() {
    let total = 0;
    for (const conversation of this.conversations.values()) if (!isMuted(conversation)) total += conversation.unread;
    return total;
  }

  /** What the badge counts, here and on the server. */
  get unreadConversations() {
    return [...this.conversations.values()].filter((c) => c.unread > 0 && !isMuted(c)).length;
  }

  /** Whether all that a push tells of has been read. */
  hasRead({ type, conversation, seq, conversations = "[]" }) {
    const told = JSON.parse(conversations);
    if (type === "summary") return told.length > 0 && told.every((id) => this.conversations.get(id)?.unread === 0);
    return type === "message.sent" && this.conversations.get(conversation)?.read_seq >= Number(seq);
  }

  /** Conversations, newest activity first. */
  get sorted() {
    return [...this.conversations.values()].filter((c) => !c.is_hidden).sort((a, b) => activity(b) - activity(a));
  }

  rpc(method, data) {
    return this.#socket.rpc(method, data);
  }

  // --- people

  nameOf(id) {
    if (!id) return "Somebody";
    if (id === this.me?.id) return this.me.name;
    const user = this.users.get(id);
    if (!user) this.#fetchUser(id);
    return user ? (user.deleted ? "Deleted user" : user.name) : "…";
  }

  titleOf(conversation) {
    if (conversation.kind !== "direct") return conversation.title;
    return conversation.other?.deleted ? "Deleted user" : (conversation.other?.name ?? "…");
  }

  async #fetchUser(id, again = false) {
    if (this.#asked.has(id) && !again) return;
    this.#asked.add(id);
    try {
      this.#learn([await this.rpc("user.get", { id })]);
    } catch {
      this.#asked.delete(id);
      return;
    }
    this.#changed({ list: true, thread: true });
  }

  #learn(users) {
    for (const user of users) {
      this.users.set(user.id, user);
      for (const conversation of this.conversations.values())
        if (conversation.other?.id === user.id) conversation.other = user;
    }
  }

  // --- the list

  /** Called at the start and after every reconnection; messages have been recovered by then. */
  async refresh() {
    try {
      this.me = await this.rpc("user.me");
      this.#loadOutbox();
      const page = await this.rpc("conversation.list", { limit: PAGE });
      this.#takePage(page);
      if (this.open && !this.open.isLoaded) await this.loadNewest(this.open);
    } catch (error) {
      if (!error.temporary) throw error;
    }
    this.#changed({ list: true, thread: true });
    this.flush();
  }

  async loadMoreConversations() {
    if (!this.hasMoreConversations || this.#isLoadingList) return;
    this.#isLoadingList = true;
    try {
      this.#takePage(await this.rpc("conversation.list", { limit: PAGE, cursor: this.#cursor }));
    } catch (error) {
      if (!error.temporary) throw error;
    } finally {
      this.#isLoadingList = false;
    }
    this.#changed({ list: true });
  }

  #takePage({ conversations, next_cursor }) {
    for (const payload of conversations) this.#take(payload);
    this.#cursor = next_cursor;
    this.hasMoreConversations = Boolean(next_cursor);
  }

  #take(payload) {
    const known = this.conversations.get(payload.id);
    const fresh = { members: null, messages: [], isLoaded: false, hasMore: true, typing: new Map() };
    this.conversations.set(payload.id, Object.assign(known ?? fresh, payload));
    if (payload.other) this.users.set(payload.other.id, payload.other);
    // Feeds are heard by those who ask; everything else comes by itself.
    if (payload.kind === "feed") this.#socket.subscribe(payload.channel);
    if (payload.last_message) this.#acknowledge(payload, payload.top_seq);
    return this.conversations.get(payload.id);
  }

  async fetch(id) {
    try {
      const conversation = this.#take(await this.rpc("conversation.get", { conversation: id }));
      this.#changed({ list: true, thread: id === this.openId });
      return conversation;
    } catch (error) {
      if (error.code === 404) this.#remove(id);
      return null;
    }
  }

  #remove(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    this.#socket.unsubscribe(conversation.channel);
    this.conversations.delete(id);
    if (id === this.openId) this.openId = null;
    this.#changed({ list: true, thread: true, removed: id });
  }

  // --- one conversation

  async choose(id) {
    this.openId = id;
    const conversation = this.open;
    this.#changed({ list: true, thread: true });
    if (conversation && !conversation.isLoaded) await this.loadNewest(conversation);
  }

  async loadNewest(conversation) {
    const about = { conversation: conversation.id };
    try {
      const [page, members] = await Promise.all([
        this.rpc("message.history", { ...about, limit: PAGE }),
        this.rpc("conversation.members", { ...about, limit: 100 }),
      ]);
      this.#takeMembers(conversation, members.members);
      this.#learn(Object.values(page.users));
      // What arrived meanwhile is newer than what was loaded.
      const last = page.messages.at(-1)?.seq ?? 0;
      conversation.messages = [...page.messages, ...conversation.messages.filter((message) => message.seq > last)];
      conversation.hasMore = page.has_more;
      conversation.isLoaded = true;
    } catch (error) {
      if (error.code === 404) this.#remove(conversation.id);
    }
    this.#changed({ thread: true });
  }

  async loadOlder(conversation) {
    if (!conversation.isLoaded || !conversation.hasMore || conversation.isLoadingOlder) return;
    conversation.isLoadingOlder = true;
    try {
      const before = conversation.messages[0]?.seq;
      const page = await this.rpc("message.history", { conversation: conversation.id, before, limit: PAGE });
      this.#learn(Object.values(page.users));
      conversation.messages.unshift(...page.messages);
      conversation.hasMore = page.has_more;
    } catch (error) {
      if (!error.temporary) conversation.hasMore = false;
    } finally {
      conversation.isLoadingOlder = false;
    }
    this.#changed({ thread: true });
  }

  async loadMembers(conversation) {
    const { members } = await this.rpc("conversation.members", { conversation: conversation.id, limit: 100 });
    this.#takeMembers(conversation, members);
    this.#changed({ thread: true });
  }

  #takeMembers(conversation, members) {
    this.#learn(members.map((member) => member.user));
    conversation.members = new Map(members.map((member) => [member.user.id, member]));
  }

  /** "sent", "delivered" or "read": what all the others have done with a message of ours. */
  statusOf(conversation, message) {
    const others = [...(conversation.members?.values() ?? [])].filter((member) => member.user.id !== this.me.id);
    if (!others.length || conversation.kind === "feed") return "sent";
    if (others.every((member) => member.read_seq >= message.seq)) return "read";
    return others.every((member) => member.delivered_seq >= message.seq) ? "delivered" : "sent";
  }

  // --- sending

  get pending() {
    return this.outbox.filter((draft) => draft.conversation === this.openId);
  }

  outbox = [];

  send(conversation, text, replyTo = null) {
    const client_id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const created_at = new Date().toISOString();
    this.outbox.push({ client_id, conversation, text, reply_to: replyTo, created_at, sender: this.me.id });
    this.#saveOutbox();
    this.#typedAt = 0;
    this.#changed({ thread: true });
    this.flush();
  }

  retry(draft) {
    draft.failed = null;
    this.#changed({ thread: true });
    this.flush();
  }

  discard(draft) {
    this.outbox = this.outbox.filter((other) => other !== draft);
    this.#saveOutbox();
    this.#changed({ thread: true });
  }

  /** Send what waits, in order. The same client_id again is the same message, so trying again is always safe. */
  async flush() {
    if (this.#isSending) return;
    this.#isSending = true;
    try {
      for (let draft; (draft = this.outbox.find((other) => !other.failed)) && this.#socket.isOpen; ) {
        if (!(await this.#post(draft))) break;
      }
    } finally {
      this.#isSending = false;
    }
  }

  async #post(draft) {
    const { conversation, client_id, text, reply_to } = draft;
    try {
      const sent = await this.rpc("message.send", { conversation, client_id, text, reply_to });
      const message = { kind: "text", data: null, mentions: [], edited_at: null, deleted_at: null, ...draft, ...sent };
      this.outbox = this.outbox.filter((other) => other.client_id !== client_id);
      this.#saveOutbox();
      this.#put(message);
    } catch (error) {
      if (error.temporary) {
        setTimeout(() => this.flush(), RETRY_SEND_MS);
        return false;
      }
      draft.failed = error.message;
    }
    this.#changed({ list: true, thread: true });
    return true;
  }

  async edit(message, text) {
    this.#put(await this.rpc("message.edit", { id: message.id, text }));
    this.#changed({ list: true, thread: true });
  }

  async delete(message) {
    this.#put(await this.rpc("message.delete", { id: message.id }));
    this.#changed({ list: true, thread: true });
  }

  get #outboxKey() {
    return `roost.outbox.${this.me.id}`;
  }

  #loadOutbox() {
    const kept = JSON.parse(localStorage.getItem(this.#outboxKey) ?? "[]");
    const known = new Set(this.outbox.map((draft) => draft.client_id));
    this.outbox.push(...kept.filter((draft) => !known.has(draft.client_id)));
  }

  #saveOutbox() {
    localStorage.setItem(this.#outboxKey, JSON.stringify(this.outbox));
  }

  // --- typing and receipts

  typing(conversation) {
    if (conversation.kind === "feed" || Date.now() - this.#typedAt < TYPING_EVERY_MS) return;
    this.#typedAt = Date.now();
    this.rpc("conversation.typing", { conversation: conversation.id }).catch(() => {});
  }

  stopTyping(conversation) {
    if (!this.#typedAt) return;
    this.#typedAt = 0;
    this.rpc("conversation.typing", { conversation: conversation.id, is_typing: false }).catch(() => {});
  }

  typists(conversation) {
    const now = Date.now();
    return [...conversation.typing].filter(([, until]) => until > now).map(([user]) => user);
  }

  read(conversation) {
    const seq = conversation.messages.at(-1)?.seq ?? conversation.top_seq;
    if (seq <= conversation.read_seq) return;
    conversation.read_seq = seq;
    conversation.unread = 0;
    this.#tell("conversation.read", conversation.id, seq);
    this.#changed({ list: true, isRead: true });
  }

  #acknowledge(conversation, seq) {
    if (seq > (conversation.delivered_seq ?? 0)) this.#tell("conversation.delivered", conversation.id, seq);
  }

  /** One cursor for many messages: told once, a moment later. */
  #tell(method, conversation, seq) {
    const key = `${method} ${conversation}`;
    if (!this.#receipts.has(key))
      setTimeout(() => {
        const told = this.#receipts.get(key);
        this.#receipts.delete(key);
        this.rpc(method, { conversation, seq: told }).catch(() => {});
      }, RECEIPT_MS);
    this.#receipts.set(key, Math.max(seq, this.#receipts.get(key) ?? 0));
  }

  // --- what the socket brings

  async publication(channel, event) {
    const handler = this.#handlers[event.type];
    if (!handler) return;
    const id = event.message?.conversation ?? event.conversation;
    const conversation = id && this.conversations.get(id);
    if (id && !conversation && event.type !== "conversation.left") return void (await this.fetch(id));
    handler(event, conversation);
  }

  async joined(channel) {
    const [namespace, id] = channel.split(":");
    if (id && namespace === "chat") await this.fetch(id);
  }

  left(channel) {
    const [, id] = channel.split(":");
    if (id) this.#remove(id);
  }

  /** Too much was missed to be told: what was loaded has a hole. */
  gap(channel) {
    const [, id] = channel.split(":");
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    conversation.messages = [];
    conversation.isLoaded = false;
    conversation.hasMore = true;
  }

  #handlers = {
    "message.sent": ({ message }, conversation) => this.#arrived(conversation, message),
    "message.edited": ({ message }, conversation) => this.#replaced(conversation, message),
    "message.deleted": ({ message }, conversation) => this.#replaced(conversation, message),
    "member.added": (event, conversation) => this.#membersChanged(conversation),
    "member.removed": (event, conversation) => this.#membersChanged(conversation),
    "member.role_changed": ({ user, role }, conversation) => {
      if (user === this.me.id) conversation.role = role;
      this.#membersChanged(conversation);
    },
    "conversation.changed": ({ title, data }, conversation) => {
      Object.assign(conversation, { title, data });
      this.#changed({ list: true, thread: true });
    },
    "conversation.deleted": ({ conversation }) => this.#remove(conversation),
    "conversation.joined": () => {},
    "conversation.left": ({ conversation }) => this.#remove(conversation),
    "conversation.settings": ({ muted_until, notification_level, is_hidden }, conversation) => {
      Object.assign(conversation, { muted_until, notification_level, is_hidden });
      this.#changed({ list: true });
    },
    "conversation.read": async ({ seq }, conversation) => {
      if (seq > conversation.read_seq && (await this.fetch(conversation.id))) this.#changed({ isRead: true });
    },
    "receipt.read": ({ user, seq }, conversation) => this.#receipt(conversation, user, { read_seq: seq, delivered_seq: seq }),
    "receipt.delivered": ({ user, seq }, conversation) => this.#receipt(conversation, user, { delivered_seq: seq }),
    "typing.started": ({ user, expires_in }, conversation) => this.#typing(conversation, user, expires_in * 1000),
    "typing.stopped": ({ user }, conversation) => this.#typing(conversation, user, 0),
    "user.changed": ({ user }) => (user === this.me?.id ? this.refresh() : this.#fetchUser(user, true)),
  };

  #arrived(conversation, message) {
    const isNew = message.seq > conversation.top_seq;
    this.outbox = this.outbox.filter((draft) => draft.client_id !== message.client_id);
    conversation.typing.delete(message.sender);
    if (isNew && isUnreadMail(message, this.me.id) && message.seq > conversation.read_seq) conversation.unread += 1;
    if (isNew) conversation.is_hidden = false;
    this.#put(message);
    if (message.sender !== this.me.id) this.#acknowledge(conversation, message.seq);
    this.#changed({ list: true, thread: conversation.id === this.openId, arrived: isNew ? message : null });
  }

  #replaced(conversation, message) {
    const wasCounted = message.seq > conversation.read_seq && message.deleted_at && message.sender !== this.me.id;
    if (wasCounted && conversation.unread > 0) conversation.unread -= 1;
    this.#put(message);
    this.#changed({ list: true, thread: conversation.id === this.openId });
  }

  /** Put a message in its place, by seq; an event without offset may come late, but never twice differently. */
  #put(message) {
    const conversation = this.conversations.get(message.conversation);
    if (!conversation) return;
    conversation.top_seq = Math.max(conversation.top_seq, message.seq);
    if (message.seq >= (conversation.last_message?.seq ?? 0)) conversation.last_message = message;
    const { messages } = conversation;
    const place = messages.findLastIndex((other) => other.seq <= message.seq);
    if (messages[place]?.seq === message.seq) messages[place] = message;
    else if (place >= 0 || !conversation.hasMore || !conversation.isLoaded) messages.splice(place + 1, 0, message);
  }

  #membersChanged(conversation) {
    if (conversation.isLoaded) this.loadMembers(conversation).catch(() => {});
    this.fetch(conversation.id);
  }

  #receipt(conversation, user, cursors) {
    const member = conversation.members?.get(user);
    if (!member) return;
    for (const [name, seq] of Object.entries(cursors)) member[name] = Math.max(member[name], seq);
    if (conversation.id === this.openId) this.#changed({ thread: true });
  }

  #typing(conversation, user, lastsMs) {
    if (user === this.me.id) return;
    conversation.typing.set(user, Date.now() + lastsMs);
    if (lastsMs) setTimeout(() => this.#changed({ list: true, thread: true }), lastsMs + 50);
    this.#changed({ list: true, thread: conversation.id === this.openId });
  }
}

const activity = (conversation) => Date.parse(conversation.last_message?.created_at ?? conversation.created_at);
export const isMuted = (conversation) => conversation.muted_until && Date.parse(conversation.muted_until) > Date.now();
