/** New conversations, the details of one, and the own account. */

import { avatar, button, byId, h } from "./dom.js";
import { isMuted } from "./store.js";

const dialog = byId("dialog");
const SEARCH_MS = 200;
const FOREVER = "9999-01-01T00:00:00Z";

byId("dialog-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

function show(title, ...content) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...content);
  if (!dialog.open) dialog.showModal();
}

const errorLine = () => h("p", { class: "error", role: "alert" });

/** Do something, and say in words when it does not work. */
async function attempt(line, act) {
  line.textContent = "";
  try {
    return await act();
  } catch (error) {
    line.textContent = words(error);
    return null;
  }
}

function words(error) {
  if (error.temporary) return "The server cannot be reached right now.";
  if (error.code === 403) return "You may not do this.";
  if (error.code === 404) return "That does not exist any more.";
  return `This was refused (${error.message}).`;
}

// --- finding people

/** A search field with its results. `pick(user, row)` is called for the one that is chosen. */
function finder(store, pick, isPicked = () => false) {
  const results = h("ul", { class: "people", "aria-label": "People" });
  const input = h("input", { type: "search", "aria-label": "Search people by name", placeholder: "Search people by name", autocomplete: "off" });
  let timer = 0;
  const search = async () => {
    const q = input.value.trim();
    const users = q ? (await store.rpc("user.search", { q }).catch(() => ({ users: [] }))).users : [];
    if (q === input.value.trim()) results.replaceChildren(...people(users, q, pick, isPicked));
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, SEARCH_MS);
  });
  return { input, results, search };
}

function people(users, q, pick, isPicked) {
  if (!users.length) return q ? [h("li", {}, h("small", {}, "Nobody has that name."))] : [];
  return users.map((user) =>
    h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "pick", onclick: () => pick(user), "aria-pressed": isPicked(user) ? "true" : null },
        avatar(user.id, user.name, "small"),
        h("span", { class: "grow" }, user.name),
      ),
    ),
  );
}

// --- new conversation

export function newConversation(store, open) {
  const panel = h("div", { role: "tabpanel" });
  const kinds = { Direct: direct, Group: group, Feeds: feeds };
  const choose = (name) => {
    for (const tab of tabs.children) tab.setAttribute("aria-selected", String(tab.textContent === name));
    panel.replaceChildren();
    kinds[name](store, panel, async (conversation) => {
      dialog.close();
      await open(conversation);
    });
    panel.querySelector("input")?.focus();
  };
  const tabs = h("div", { class: "tabs", role: "tablist" });
  tabs.append(...Object.keys(kinds).map((name) => button(name, () => choose(name), { role: "tab" })));
  show("New conversation", tabs, panel);
  choose("Direct");
}

function direct(store, panel, done) {
  const line = errorLine();
  const create = async (user) => {
    const made = await attempt(line, () => store.rpc("conversation.create_direct", { user: user.id }));
    if (made) done(made.id);
  };
  const { input, results } = finder(store, create);
  panel.append(input, results, line);
}

function group(store, panel, done) {
  const line = errorLine();
  const picked = new Map();
  const chosen = h("p", { class: "hint", "aria-live": "polite" });
  const title = h("input", { "aria-label": "Name of the group", placeholder: "Name of the group", maxlength: "200" });
  const pick = (user) => {
    if (!picked.delete(user.id)) picked.set(user.id, user);
    chosen.textContent = picked.size ? `With ${[...picked.values()].map((person) => person.name).join(", ")}` : "";
    search();
  };
  const { input, results, search } = finder(store, pick, (user) => picked.has(user.id));
  const create = async () => {
    if (!title.value.trim()) return title.focus();
    const members = [...picked.keys()];
    const made = await attempt(line, () => store.rpc("conversation.create_group", { title: title.value, members }));
    if (made) done(made.id);
  };
  panel.append(title, input, results, chosen, line, button("Create group", create, { class: "primary" }));
}

async function feeds(store, panel, done) {
  const line = errorLine();
  const title = h("input", { "aria-label": "Name of a new feed", placeholder: "Name of a new feed", maxlength: "200" });
  const create = async () => {
    if (!title.value.trim()) return title.focus();
    const made = await attempt(line, () => store.rpc("feed.create", { title: title.value }));
    if (made) done(made.id);
  };
  const list = h("ul", { class: "people", "aria-label": "Feeds" });
  panel.append(list, line, title, button("Create feed", create, { class: "primary" }));
  const page = await attempt(line, () => store.rpc("feed.list"));
  list.replaceChildren(...(page?.feeds ?? []).map((feed) => h("li", {}, ...feedRow(store, feed, line, done))));
}

function feedRow(store, feed, line, done) {
  const follow = async () => {
    const followed = await attempt(line, () => store.rpc("feed.follow", { conversation: feed.id }));
    if (followed) done(feed.id);
  };
  return [
    avatar(feed.id, feed.title, "small square"),
    h("span", { class: "grow" }, feed.title),
    feed.is_followed ? button("Open", () => done(feed.id), { class: "secondary" }) : button("Follow", follow, { class: "secondary" }),
  ];
}

// --- details of a conversation

export async function details(store, conversation) {
  const line = errorLine();
  const act = async (method, data, after = () => dialog.close()) => {
    const answer = await attempt(line, () => store.rpc(method, { conversation: conversation.id, ...data }));
    if (answer) await after();
  };
  const again = async () => {
    await store.loadMembers(conversation);
    details(store, conversation);
  };
  const isManager = conversation.role === "owner" || conversation.role === "admin";
  const parts = [];
  if (conversation.kind !== "direct" && isManager) parts.push(rename(conversation, act));
  if (conversation.kind !== "direct") parts.push(memberList(store, conversation, isManager, act, again));
  if (conversation.kind === "group" && isManager) {
    const { input, results } = finder(store, (user) => act("conversation.add_member", { user: user.id }, again));
    input.placeholder = "Add somebody by name";
    parts.push(input, results);
  }
  show(store.titleOf(conversation), ...parts, line, choices(store, conversation, act));
}

function rename(conversation, act) {
  const input = h("input", { value: conversation.title, "aria-label": "Name", maxlength: "200" });
  const save = () => act("conversation.rename", { title: input.value });
  return h("div", { class: "row" }, input, button("Rename", save, { class: "secondary" }));
}

function memberList(store, conversation, isManager, act, again) {
  const members = [...(conversation.members?.values() ?? [])];
  const row = ({ user, role }) =>
    h(
      "li",
      {},
      avatar(user.id, user.name, "small"),
      h("span", { class: "grow" }, user.id === store.me.id ? `${user.name} (you)` : store.nameOf(user.id)),
      role === "member" ? null : h("small", {}, role),
      isManager && role === "member" && user.id !== store.me.id && conversation.kind === "group"
        ? button("Remove", () => act("conversation.remove_member", { user: user.id }, again), { class: "link" })
        : null,
    );
  return h("ul", { class: "people", "aria-label": "Members" }, ...members.map(row));
}

function choices(store, conversation, act) {
  const isSilent = isMuted(conversation);
  const parts = [
    button(isSilent ? "Unmute" : "Mute", () => act("conversation.mute", { until: isSilent ? null : FOREVER }), { class: "secondary" }),
  ];
  if (conversation.kind === "direct") {
    parts.push(button("Hide", () => act("conversation.hide"), { class: "secondary" }));
    const block = () => store.rpc("user.block", { user: conversation.other.id }).then(() => dialog.close());
    parts.push(button("Block", block, { class: "danger" }));
  }
  if (conversation.kind === "group") parts.push(button("Leave", () => act("conversation.leave"), { class: "danger" }));
  if (conversation.kind !== "direct" && conversation.role === "owner")
    parts.push(button("Delete", () => act("conversation.delete"), { class: "danger" }));
  return h("div", { class: "row" }, ...parts);
}

// --- the own account

// What is said of notifications, and the button's name where pressing it is of use.
const PUSH_STATES = {
  on: ["You are notified here while this page is closed.", "Turn off"],
  off: ["You are not notified here while this page is closed.", "Turn on"],
  refused: ["Your browser refuses notifications of this page. Allow them in its settings for this site."],
  unconfigured: ["This server sends no notifications to browsers."],
  unsupported: ["This browser cannot show notifications of this page."],
};

/** The switch of this browser's notifications; `line` says what went wrong. */
function notifications(push, line) {
  const part = h("div", { class: "row notifications" });
  const draw = () => {
    const [text, label] = PUSH_STATES[push.state];
    part.replaceChildren(h("p", { role: "status" }, text), label ? button(label, press, { class: "secondary" }) : "");
  };
  const press = async () => {
    await attempt(line, () => (push.state === "on" ? push.turnOff() : push.turnOn()));
    draw();
  };
  draw();
  push.look().then(draw, () => {});
  return part;
}

export async function account(store, push, logOut) {
  const line = errorLine();
  const name = h("input", { value: store.me.name, "aria-label": "Your name", maxlength: "100" });
  const save = async () => {
    const me = await attempt(line, () => store.rpc("user.update", { name: name.value }));
    if (me) dialog.close();
  };
  const sessions = h("ul", { class: "people", "aria-label": "Where you are logged in" });
  show(
    store.me.email ?? store.me.name,
    h("div", { class: "row" }, name, button("Save", save, { class: "secondary" })),
    h("h3", {}, "Notifications"),
    notifications(push, line),
    h("h3", {}, "Where you are logged in"),
    sessions,
    line,
    h("div", { class: "row" }, button("Log out", () => (dialog.close(), logOut()), { class: "primary" })),
  );
  const page = await attempt(line, () => store.rpc("session.list"));
  const row = ({ id, device, is_current: isCurrent, created_at: since }) => {
    const revoke = async () => {
      if (await attempt(line, () => store.rpc("session.revoke", { id }))) account(store, push, logOut);
    };
    const label = `${device.name || device.platform}, since ${new Date(since).toLocaleDateString()}`;
    return h("li", {}, h("span", { class: "grow" }, label), isCurrent ? h("small", {}, "this one") : button("End", revoke, { class: "link" }));
  };
  sessions.replaceChildren(...(page?.sessions ?? []).map(row));
}
