/** The open conversation: messages, composer, typing, ticks. */

import { announce, avatar, button, byId, dayKey, dayName, dressAvatar, h, icon, timeOfDay } from "./dom.js";
import { systemText, typing } from "./list.js";

const NEAR_TOP = 300;
const NEAR_BOTTOM = 80;
// Messages of one person that follow each other so closely belong together.
const TOGETHER_MS = 5 * 60_000;

const TICKS = { sent: ["✓", "Sent"], delivered: ["✓✓", "Delivered"], read: ["✓✓", "Read"] };

export class Thread {
  #store;
  #scroller = byId("scroller");
  #messages = byId("messages");
  #text = byId("text");
  #shownId = null;
  #isAtBottom = true;
  #context = null;
  #drafts = new Map();

  /** @param {{openDetails: Function, back: Function, follow: Function}} actions */
  constructor(store, actions) {
    this.#store = store;
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#messages.addEventListener("keydown", (event) => this.#walk(event));
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    this.#text.addEventListener("input", () => this.#typed());
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    byId("context-cancel").addEventListener("click", () => this.#setContext(null));
    byId("to-bottom").addEventListener("click", () => this.#toBottom());
    byId("back").addEventListener("click", actions.back);
    byId("details").addEventListener("click", () => actions.openDetails(store.open));
    byId("follow").addEventListener("click", () => actions.follow(store.open));
    addEventListener("focus", () => this.#markRead());
    document.addEventListener("visibilitychange", () => this.#markRead());
    new ResizeObserver(() => this.#isAtBottom && this.#toBottom()).observe(this.#scroller);
  }

  focus() {
    (this.#text.closest("form").hidden ? byId("thread-title") : this.#text).focus({ preventScroll: true });
  }

  render() {
    const conversation = this.#store.open;
    byId("thread").hidden = !conversation;
    byId("welcome").hidden = Boolean(conversation);
    if (conversation?.id !== this.#shownId) this.#switch(conversation);
    if (!conversation) return;
    this.#renderHead(conversation);
    this.#renderMessages(conversation);
    byId("typing").textContent = typing(this.#store, conversation, this.#store.typists(conversation));
    this.#markRead();
  }

  /** A message has just come, here or elsewhere. */
  arrived(message) {
    const conversation = this.#store.open;
    if (message.sender === this.#store.me.id) return;
    const text = message.kind === "system" ? systemText(this.#store, message) : (message.text ?? "Attachment");
    announce(message.kind === "system" ? text : `${this.#store.nameOf(message.sender)}: ${text}`);
    if (message.conversation === conversation?.id && !this.#isAtBottom) byId("to-bottom").hidden = false;
  }

  #switch(conversation) {
    if (this.#shownId) this.#drafts.set(this.#shownId, this.#text.value);
    this.#shownId = conversation?.id ?? null;
    this.#messages.replaceChildren();
    this.#setContext(null);
    this.#text.value = this.#drafts.get(this.#shownId) ?? "";
    this.#grow();
    this.#isAtBottom = true;
    byId("to-bottom").hidden = true;
  }

  #renderHead(conversation) {
    const title = this.#store.titleOf(conversation);
    const isFeed = conversation.kind === "feed";
    dressAvatar(byId("thread-avatar"), conversation.other?.id ?? conversation.id, title, conversation.kind === "direct" ? "" : "square");
    byId("thread-title").textContent = title;
    byId("thread-subtitle").textContent = subtitle(conversation, this.#store);
    const mayPost = !isFeed || conversation.role === "owner" || conversation.role === "admin";
    byId("composer").hidden = !mayPost;
    byId("read-only").hidden = mayPost;
    byId("follow").hidden = !isFeed || mayPost;
    byId("follow").textContent = "Unfollow";
  }

  // --- messages

  #renderMessages(conversation) {
    const keepBottom = this.#isAtBottom;
    const height = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    const focused = document.activeElement?.closest?.("[data-key]")?.dataset.key;
    const rows = [...conversation.messages, ...this.#store.pending];
    const nodes = [];
    rows.forEach((message, place) => {
      const before = rows[place - 1];
      if (!before || dayKey(before.created_at) !== dayKey(message.created_at))
        nodes.push(h("li", { class: "day", "aria-hidden": "true" }, dayName(message.created_at)));
      nodes.push(this.#row(conversation, message, before, rows[place + 1]));
    });
    this.#replace(nodes);
    this.#scroller.setAttribute("aria-busy", String(!conversation.isLoaded));
    if (focused) this.#messages.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
    // What is read stays where it is, also when older messages come in above.
    this.#scroller.scrollTop = keepBottom ? this.#scroller.scrollHeight : this.#scroller.scrollHeight - height;
  }

  /** Keep the nodes that have not changed, so that focus, selection and open menus stay. */
  #replace(nodes) {
    const old = [...this.#messages.children];
    const byLook = new Map(old.map((node) => [node.outerHTML, node]));
    const wanted = nodes.map((node) => byLook.get(node.outerHTML) ?? node);
    const isSame = wanted.length === old.length && wanted.every((node, place) => node === old[place]);
    if (!isSame) this.#messages.replaceChildren(...new Set(wanted));
  }

  #row(conversation, message, before, after) {
    if (message.kind === "system") return h("li", { class: "system", "data-key": message.id }, systemText(this.#store, message));
    const isMine = message.sender === this.#store.me.id;
    const [isFirst, isLast] = [!together(before, message), !together(message, after)];
    const looks = ["message", isMine && "mine", isFirst && "first", isLast && "last", message.deleted_at && "deleted"];
    looks.push(!message.id && (message.failed ? "failed" : "pending"));
    const name = this.#store.nameOf(message.sender);
    const isNamed = isFirst && !isMine && conversation.kind !== "direct";
    return h(
      "li",
      { class: looks.filter(Boolean).join(" "), tabindex: after ? "-1" : "0", "data-key": message.client_id },
      isMine ? null : isLast ? avatar(message.sender ?? "", name, "small") : h("span"),
      h(
        "div",
        { class: "bubble" },
        isNamed ? h("span", { class: "author" }, name) : h("span", { class: "visually-hidden" }, isMine ? "You: " : `${name}: `),
        message.reply_to ? this.#quote(conversation, message.reply_to) : null,
        h("span", { class: "text" }, message.deleted_at ? "Message deleted" : (message.text ?? "Attachment")),
        this.#meta(conversation, message, isMine),
      ),
      message.id && !message.deleted_at ? this.#actions(message, isMine) : null,
    );
  }

  #quote(conversation, id) {
    const quoted = conversation.messages.find((message) => message.id === id);
    const text = !quoted ? "An earlier message" : quoted.deleted_at ? "Message deleted" : (quoted.text ?? "Attachment");
    const show = () => this.#messages.querySelector(`[data-key="${quoted?.client_id}"]`)?.focus();
    return h("button", { class: "quote", type: "button", onclick: show }, h("b", {}, quoted ? this.#store.nameOf(quoted.sender) : "Reply"), h("span", {}, text));
  }

  #meta(conversation, message, isMine) {
    const parts = [];
    if (message.failed) parts.push(...this.#failure(message));
    if (message.edited_at && !message.deleted_at) parts.push("edited");
    parts.push(h("time", { datetime: message.created_at }, timeOfDay(message.created_at)));
    if (isMine && !message.failed && !message.deleted_at) parts.push(this.#tick(conversation, message));
    return h("span", { class: "meta" }, ...parts);
  }

  #tick(conversation, message) {
    if (!message.id) return h("span", { class: "tick", role: "img", "aria-label": "Sending" }, "…");
    const status = this.#store.statusOf(conversation, message);
    const [sign, label] = TICKS[status];
    return h("span", { class: `tick ${status}`, role: "img", "aria-label": label, title: label }, sign);
  }

  #failure(draft) {
    return [
      h("span", {}, "Not sent."),
      button("Retry", () => this.#store.retry(draft), { class: "retry" }),
      button("Discard", () => this.#store.discard(draft), { class: "retry" }),
    ];
  }

  #actions(message, isMine) {
    const round = (label, name, act) => button(icon(name), act, { class: "round", "aria-label": label, title: label });
    return h(
      "div",
      { class: "actions", role: "group", "aria-label": "What to do with it" },
      round("Reply", "reply", () => this.#setContext({ kind: "reply", message })),
      isMine && message.text !== null ? round("Edit", "edit", () => this.#setContext({ kind: "edit", message })) : null,
      isMine ? round("Delete", "delete", () => this.#delete(message)) : null,
    );
  }

  async #delete(message) {
    try {
      await this.#store.delete(message);
      announce("Message deleted");
    } catch {
      announce("The message could not be deleted");
    }
    this.focus();
  }

  /** Arrow keys go from message to message; Tab then reaches what can be done with one. */
  #walk(event) {
    const row = event.target.closest(".message");
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!row || !step) return;
    event.preventDefault();
    const rows = [...this.#messages.querySelectorAll(".message")];
    rows[rows.indexOf(row) + step]?.focus();
  }

  // --- scrolling and reading

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#isAtBottom = scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM;
    if (this.#isAtBottom) this.#markRead();
    if (scrollTop < NEAR_TOP && this.#store.open) this.#store.loadOlder(this.#store.open);
  }

  #toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #markRead() {
    const conversation = this.#store.open;
    if (!conversation?.isLoaded || !this.#isAtBottom || document.visibilityState !== "visible" || !document.hasFocus()) return;
    byId("to-bottom").hidden = true;
    this.#store.read(conversation);
  }

  // --- the composer

  #typed() {
    this.#grow();
    const conversation = this.#store.open;
    if (this.#text.value.trim()) this.#store.typing(conversation);
    else this.#store.stopTyping(conversation);
  }

  #grow() {
    this.#text.style.height = "auto";
    this.#text.style.height = `${this.#text.scrollHeight + 2}px`;
    byId("send").disabled = !this.#text.value.trim();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#text.form.requestSubmit();
    } else if (event.key === "Escape" && this.#context) {
      event.stopPropagation();
      this.#setContext(null);
    } else if (event.key === "ArrowUp" && !this.#text.value) {
      const mine = this.#store.open.messages.findLast((m) => m.sender === this.#store.me.id && !m.deleted_at && m.text !== null);
      if (mine) {
        event.preventDefault();
        this.#setContext({ kind: "edit", message: mine });
      }
    }
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#text.value.trim();
    if (!text) return;
    const context = this.#context;
    this.#text.value = "";
    this.#setContext(null);
    this.#isAtBottom = true;
    if (context?.kind === "edit") this.#edit(context.message, text);
    else this.#store.send(this.#store.openId, text, context?.message.id ?? null);
    this.#toBottom();
  }

  async #edit(message, text) {
    if (text === message.text) return;
    try {
      await this.#store.edit(message, text);
    } catch {
      // What was written is not thrown away.
      this.#setContext({ kind: "edit", message });
      this.#text.value = text;
      this.#grow();
      announce("The message could not be changed");
    }
  }

  #setContext(context) {
    if (this.#context?.kind === "edit" && !context) this.#text.value = "";
    this.#context = context;
    byId("context").hidden = !context;
    if (context) {
      const { kind, message } = context;
      const title = kind === "edit" ? "Editing" : `Replying to ${this.#store.nameOf(message.sender)}`;
      byId("context-text").textContent = `${title}: ${message.text ?? "Attachment"}`;
      if (kind === "edit") this.#text.value = message.text;
      this.#text.focus();
    }
    this.#grow();
  }
}

function together(before, after) {
  return (
    before?.sender === after?.sender &&
    before?.kind !== "system" &&
    after?.kind !== "system" &&
    Date.parse(after.created_at) - Date.parse(before.created_at) < TOGETHER_MS &&
    dayKey(before.created_at) === dayKey(after.created_at)
  );
}

function subtitle(conversation, store) {
  const { kind, member_count: count, members } = conversation;
  if (kind === "direct") return "Direct conversation";
  if (kind === "feed") return count === 2 ? "Feed · 1 follower" : `Feed · ${Math.max(count - 1, 0)} followers`;
  if (!members) return `${count} people`;
  return [...members.keys()].map((user) => (user === store.me.id ? "You" : store.nameOf(user))).join(", ");
}
