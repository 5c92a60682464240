/**
 * The service worker: shows what the server pushes, also while no page is open, and leads from a notification into its
 * conversation. It caches nothing and holds no tokens; whatever needs somebody who is logged in is left to the page.
 *
 * Browsers let a page be pushed to only if every push shows something: some count the ones that do not and show a
 * notification of their own (Chrome, Firefox while no page is visible), others end the subscription (Safari). So each
 * push here ends in a notification, without a sound where it is no news.
 */

const ICON = "/chat/icon-192.png";
// A page that is busy for longer is not waited for: then the notification makes its sound.
const ANSWER_MS = 500;

// One after the other: of two pushes that come together each must see what the other one has shown.
let last = Promise.resolve();

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("push", (event) => event.waitUntil(inOrder(() => pushed(read(event.data)))));
self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(subscriptionChanged(event)));
self.addEventListener("notificationclick", (event) => event.waitUntil(clicked(event.notification)));

function inOrder(act) {
  last = last.then(act, act);
  return last;
}

function read(data) {
  try {
    return data.json();
  } catch {
    // Not from our server; it has to show something nevertheless.
    return {};
  }
}

// --- showing

async function pushed(data) {
  setBadge(data.badge);
  await clear(listOf(data.clear));
  // Browsers are never sent a bare one, because it has nothing to show.
  if (data.type === "clear") return;
  const tag = tagOf(data);
  const [shown] = await self.registration.getNotifications({ tag });
  if (shown && !isNews(data, shown.data)) await showAgain(shown);
  else await self.registration.showNotification(data.title || "Roost", await look(data, tag));
  await tell({ type: "shown" });
}

/** What is shown under the same tag is replaced: a conversation has one notification. */
function tagOf({ type, conversation, call, push_id: id }) {
  if (type === "summary") return "summary";
  if (type === "call" && call) return `call ${call}`;
  return (type === "message.sent" && conversation) || id || "roost";
}

/**
 * Pushes may come twice, or late. A silent one says how the conversation reads now: its newest message was edited, or
 * deleted, and then the seq is a smaller one.
 */
function isNews({ type, push_id: id, seq, silent }, shown) {
  if (type !== "message.sent") return id !== shown.push_id;
  return silent === "1" || Number(seq) > Number(shown.seq);
}

async function look(data, tag) {
  const isQuiet = data.silent === "1" || (data.type === "message.sent" && (await isLookedAt(data.conversation)));
  return {
    tag,
    body: data.body,
    icon: data.avatar || ICON,
    image: data.image,
    silent: isQuiet,
    renotify: !isQuiet,
    // Whoever rings does not go away by themselves.
    requireInteraction: data.type === "call",
    data,
  };
}

function showAgain({ title, tag, body, icon, image, data }) {
  return self.registration.showNotification(title, { tag, body, icon, image, data, silent: true });
}

/** Take off what was read elsewhere; a summary goes when all that it sums up was read. */
async function clear(read) {
  if (!read.length) return;
  for (const notification of await self.registration.getNotifications()) {
    const { type, conversation, conversations } = notification.data;
    const told = type === "message.sent" ? [conversation] : listOf(conversations);
    if (told.length && told.every((id) => read.includes(id))) notification.close();
  }
}

function listOf(text) {
  return text ? JSON.parse(text) : [];
}

function setBadge(badge) {
  // Where the page is not installed there is nowhere to show it.
  if (badge !== undefined) navigator.setAppBadge?.(Number(badge)).catch(() => {});
}

// --- pages

/** Our pages that are open; what else is served here does not understand us. */
async function pages() {
  const open = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  return open.filter(({ url }) => new URL(url).pathname === "/");
}

async function tell(message) {
  for (const page of await pages()) page.postMessage(message);
}

/** Whether somebody has this conversation before their eyes: only the page knows what it shows. */
async function isLookedAt(conversation) {
  const visible = (await pages()).filter(({ visibilityState }) => visibilityState === "visible");
  const answers = await Promise.all(visible.map((page) => ask(page, { type: "looking", conversation })));
  return answers.some(Boolean);
}

function ask(page, question) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    setTimeout(resolve, ANSWER_MS, false);
    page.postMessage(question, [port2]);
  });
}

// --- clicking

async function clicked(notification) {
  notification.close();
  const link = linkOf(notification.data);
  const open = await pages();
  const page = open.find(({ focused }) => focused) ?? open[0];
  // The page knows the addresses of the page, not those of an app that lives beside it.
  if (!page || link.pathname !== "/") return self.clients.openWindow(link.href);
  page.postMessage({ type: "open", conversation: link.searchParams.get("conversation") });
  return page.focus();
}

/** Where a click leads: within our origin only, whatever a push says. */
function linkOf({ link, type, conversation }) {
  const isAboutOne = conversation && (type === "message.sent" || type === "call");
  const own = new URL(isAboutOne ? `/?conversation=${encodeURIComponent(conversation)}` : "/", location.origin);
  try {
    const given = new URL(link || own, location.origin);
    // By its beginning and not by its origin, which a "blob:" address has as well.
    return given.href.startsWith(`${location.origin}/`) ? given : own;
  } catch {
    return own;
  }
}

// --- the subscription

/** The browser's push service has ended it. The server is told by a page: now, or when one is opened next. */
async function subscriptionChanged({ newSubscription }) {
  if (!newSubscription) {
    const { vapid_public_key: key } = await (await fetch("/v1/push/key")).json();
    if (key) await self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
  }
  await tell({ type: "resubscribed" });
}
