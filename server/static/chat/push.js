/**
 * Notifications while the page is closed: the permission, the browser's subscription, and telling the server of it.
 * What is pushed is shown by the service worker (sw.js).
 */

// What somebody has asked for. The subscription is no sign of it: browsers end subscriptions by themselves.
const WISH = "roost.push";
const WORKER = "/sw.js";

// Without https (but on the own machine) browsers have none of it.
const isSupported = () => "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
const isGranted = () => Notification.permission === "granted";

export class Push {
  #rpc;
  #key = null;
  #isRegistered = false;

  /** "on", "off", "refused" by the browser, "unconfigured" on the server, or "unsupported" here. */
  state = "off";

  constructor(rpc) {
    this.#rpc = rpc;
  }

  /** Called on every connection, and again when the browser has another subscription (`isNew`). */
  async start({ isNew = false } = {}) {
    if (isNew) {
      this.#key = null;
      this.#isRegistered = false;
    }
    await this.look();
    if (this.#key && isGranted() && localStorage.getItem(WISH)) await this.#register();
  }

  /** Called by a click, and by nothing else: browsers ask people only then, and people say no to what asks by itself. */
  async turnOn() {
    if ((await Notification.requestPermission()) === "granted") localStorage.setItem(WISH, "on");
    await this.start();
  }

  /** Called by a click, and on logging out: whoever logs in next is somebody else. */
  async turnOff() {
    if (!isSupported() || !localStorage.getItem(WISH)) return;
    localStorage.removeItem(WISH);
    this.#isRegistered = false;
    this.state = "off";
    // If this is lost the server hears of it from the push service.
    await this.#rpc("device.register", { target: "" }).catch(() => {});
    const registration = await navigator.serviceWorker.getRegistration();
    const subscription = await registration?.pushManager.getSubscription();
    await subscription?.unsubscribe().catch(() => {});
    await this.tidy(() => true);
    this.setBadge(0);
  }

  /** Take off the screen what has been read, here or elsewhere. */
  async tidy(isRead) {
    if (!isSupported()) return;
    const registration = await navigator.serviceWorker.getRegistration();
    for (const notification of (await registration?.getNotifications()) ?? [])
      if (isRead(notification.data)) notification.close();
  }

  /** A number on the icon of the installed page; elsewhere it is nowhere to be seen. */
  setBadge(count) {
    navigator.setAppBadge?.(count).catch(() => {});
  }

  /** See where things stand; the permission may have been changed outside of the page. */
  async look() {
    if (!isSupported()) return void (this.state = "unsupported");
    this.#key ??= await serverKey();
    // With the permission goes the subscription.
    this.#isRegistered &&= isGranted();
    if (!this.#key) this.state = "unconfigured";
    else if (Notification.permission === "denied") this.state = "refused";
    else this.state = this.#isRegistered ? "on" : "off";
  }

  /** Also what has been registered before: the server forgets what a push service does not know any more. */
  async #register() {
    if (this.#isRegistered) return;
    await navigator.serviceWorker.register(WORKER);
    const { pushManager } = await navigator.serviceWorker.ready;
    const target = JSON.stringify(await subscribe(pushManager, this.#key));
    await this.#rpc("device.register", { platform: "web", push_provider: "webpush", target });
    this.#isRegistered = true;
    this.state = "on";
  }
}

async function serverKey() {
  const answer = await fetch("/v1/push/key");
  if (!answer.ok) throw new Error(`push key: ${answer.status}`);
  return (await answer.json()).vapid_public_key;
}

/** The subscription that is there, or a new one. */
async function subscribe(manager, applicationServerKey) {
  const options = { userVisibleOnly: true, applicationServerKey };
  try {
    return await manager.subscribe(options);
  } catch (error) {
    if (error.name !== "InvalidStateError") throw error;
    // It was made with another key than the server has now.
    await (await manager.getSubscription())?.unsubscribe();
    return manager.subscribe(options);
  }
}
