/** Joins the parts: who is logged in, the socket, what is known, and what is shown. */

import { dressAvatar, avatar, byId, h } from "./dom.js";
import { account, details, newConversation } from "./dialogs.js";
import { Entrance } from "./entrance.js";
import { renderList } from "./list.js";
import { Push } from "./push.js";
import { Session } from "./session.js";
import { Socket } from "./socket.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";

// A short loss of connection is no news.
const PATIENCE_MS = 1500;
const HINT = "roost.hint";

const app = byId("app");
const session = new Session();
const entrance = new Entrance(session, enter);
let store = null;
let push = null;
let socket = null;
let thread = null;
let bannerTimer = 0;
let frame = 0;
let due = { list: false, thread: false };
// Where the address or a notification leads, until somebody is logged in who can go there.
let linked = new URLSearchParams(location.search).get("conversation");

function enter() {
  entrance.close();
  app.hidden = false;
  showPane("list");
  store = new Store(changed);
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new Socket(`${scheme}://${location.host}/connection/websocket`, (fresh) => session.token(fresh), {
    open: connected,
    away,
    ended,
    publication: (channel, event) => store.publication(channel, event),
    joined: (channel) => store.joined(channel),
    left: (channel) => store.left(channel),
    gap: (channel) => store.gap(channel),
  });
  store.connect(socket);
  push = new Push((method, data) => store.rpc(method, data));
  thread = new Thread(store, { back: () => showPane("list"), openDetails, follow: unfollow });
  socket.open();
}

/** Begin anew, with nothing left in memory of whoever was here. */
function leave(hint = "") {
  socket?.close();
  session.forget();
  sessionStorage.setItem(HINT, hint);
  location.reload();
}

async function ended() {
  // Or its pushes would be seen by whoever comes next.
  await push.turnOff().catch(() => {});
  leave("You were logged out.");
}

async function connected() {
  clearTimeout(bannerTimer);
  byId("banner").hidden = true;
  await store.refresh();
  renderMe();
  followLink();
  tidy();
  // What does not work now is tried on the next connection; the account shows where it stands.
  push.start().catch(() => {});
}

function away() {
  clearTimeout(bannerTimer);
  bannerTimer = setTimeout(() => {
    byId("banner").textContent = navigator.onLine ? "Connecting…" : "You are offline. Messages are sent when you are back.";
    byId("banner").hidden = false;
  }, PATIENCE_MS);
}

/** Draw at most once per frame, whatever has changed. */
function changed({ list = false, thread: isThread = false, arrived = null, removed = null, isRead = false }) {
  due = { list: due.list || list, thread: due.thread || isThread };
  if (arrived) thread.arrived(arrived);
  if (isRead) tidy();
  if (removed && !store.openId) showPane("list");
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  if (app.hidden || !store.me) return;
  const { list, thread: isThread } = due;
  due = { list: false, thread: false };
  if (isThread) thread.render();
  if (list) renderList(store, choose);
  // Of a part of the list the number would be wrong; pushes bring the right one.
  if (list && !store.hasMoreConversations) push.setBadge(store.unreadConversations);
}

function renderMe() {
  if (!store.me) return;
  const picture = dressAvatar(avatar(store.me.id, store.me.name), store.me.id, store.me.name, "small");
  byId("me").replaceChildren(picture, h("span", {}, store.me.name));
  byId("me").setAttribute("aria-label", `${store.me.name}: account`);
}

async function choose(id) {
  if (!store.conversations.has(id) && !(await store.fetch(id))) return;
  showPane("chat");
  await store.choose(id);
  thread.render();
  thread.focus();
}

function followLink() {
  if (!linked || !store?.me) return;
  const id = linked;
  linked = null;
  // Only once: who reloads the page later has gone elsewhere.
  history.replaceState(null, "", location.pathname);
  byId("dialog").close();
  choose(id);
}

function tidy() {
  if (store?.me) push.tidy((pushed) => store.hasRead(pushed)).catch(() => {});
}

function openDetails(conversation) {
  if (conversation) details(store, conversation);
}

async function unfollow(feed) {
  await store.rpc("feed.unfollow", { conversation: feed.id }).catch(() => {});
}

function showPane(name) {
  app.dataset.pane = name;
  // On a phone the list covers the conversation: what comes in there has not been seen.
  if (name === "list" && matchMedia("(max-width: 720px)").matches) store?.choose(null);
}

byId("new-chat").addEventListener("click", () => newConversation(store, choose));
// Until the first answer nobody knows whose account it is.
byId("me").addEventListener("click", () => store.me && account(store, push, logOut));
byId("conversations").closest("nav").addEventListener("scroll", ({ target }) => {
  if (target.scrollHeight - target.scrollTop - target.clientHeight < 200) store.loadMoreConversations();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("dialog").open && app.dataset.pane === "chat" && !app.hidden) showPane("list");
});

const isLookingAt = (conversation) =>
  store?.openId === conversation && document.visibilityState === "visible" && document.hasFocus();

// What the service worker says and asks (sw.js).
const fromWorker = {
  open({ conversation }) {
    linked = conversation;
    followLink();
  },
  looking({ conversation }, port) {
    port.postMessage(isLookingAt(conversation));
  },
  shown: tidy,
  resubscribed: () => push?.start({ isNew: true }).catch(() => {}),
};
navigator.serviceWorker?.addEventListener("message", ({ data, ports }) => fromWorker[data.type]?.(data, ports[0]));

async function logOut() {
  // While the server can still be told.
  await push.turnOff().catch(() => {});
  socket.close();
  await session.logOut();
  leave();
}

if (session.isLoggedIn) enter();
else entrance.open(sessionStorage.getItem(HINT) ?? "");
sessionStorage.removeItem(HINT);
