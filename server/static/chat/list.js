/** The list of conversations. */

import { avatar, byId, h, when } from "./dom.js";
import { isMuted } from "./store.js";

const list = byId("conversations");

export function renderList(store, choose) {
  const focused = document.activeElement?.dataset?.conversation;
  const conversations = store.sorted;
  list.replaceChildren(...conversations.map((conversation) => h("li", {}, row(store, conversation, choose))));
  byId("no-conversations").hidden = conversations.length > 0;
  if (focused) list.querySelector(`[data-conversation="${focused}"]`)?.focus();
  document.title = store.totalUnread ? `(${store.totalUnread}) Roost` : "Roost";
}

function row(store, conversation, choose) {
  const { id, kind, unread } = conversation;
  const title = store.titleOf(conversation);
  const last = conversation.last_message;
  return h(
    "button",
    {
      type: "button",
      class: unread ? "unread" : "",
      "data-conversation": id,
      "aria-current": id === store.openId ? "true" : null,
      onclick: () => choose(id),
    },
    avatar(conversation.other?.id ?? id, title, kind === "direct" ? "" : "square"),
    h("span", { class: "name" }, title),
    h("span", { class: "when" }, last ? when(last.created_at) : ""),
    h("span", { class: "last" }, preview(store, conversation)),
    unread ? badge(conversation) : null,
  );
}

function badge(conversation) {
  const label = `${conversation.unread} unread`;
  const look = isMuted(conversation) ? "badge muted" : "badge";
  return h("span", { class: look, "aria-label": label }, conversation.unread > 999 ? "999+" : String(conversation.unread));
}

function preview(store, conversation) {
  const typists = store.typists(conversation);
  if (typists.length) return typing(store, conversation, typists);
  const message = conversation.last_message;
  if (!message) return conversation.kind === "feed" ? "Feed" : "No messages yet";
  if (message.kind === "system") return systemText(store, message);
  const text = message.deleted_at ? "Message deleted" : (message.text ?? "Attachment");
  if (message.sender === store.me.id) return `You: ${text}`;
  return conversation.kind === "group" ? `${store.nameOf(message.sender)}: ${text}` : text;
}

export function typing(store, conversation, typists) {
  if (!typists.length) return "";
  if (conversation.kind === "direct") return "typing…";
  if (typists.length > 2) return "Several people are typing…";
  const names = typists.map((user) => store.nameOf(user));
  return `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing…`;
}

/** What happened to a group, as a sentence. */
export function systemText(store, { sender, data }) {
  const by = sender === store.me.id ? "You" : store.nameOf(sender);
  const whom = data?.user === store.me.id ? "you" : data?.user ? store.nameOf(data.user) : "";
  switch (data?.event) {
    case "conversation.created":
      return `${by} created the group`;
    case "conversation.renamed":
      return `${by} named the group “${data.title}”`;
    case "member.added":
      return `${by} added ${whom}`;
    case "member.removed":
      return `${by} removed ${whom}`;
    case "member.left":
      return `${by} left`;
    default:
      return "The group changed";
  }
}
