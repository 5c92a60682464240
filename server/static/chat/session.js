/** Who is logged in here: tokens in the browser's storage, and the account requests that bring them. */

const STORE = "roost.session";
const INSTALL = "roost.install";
// An access token that ends so soon is not worth using.
const LEAST_SECONDS = 20;

/** What a person can do something about, in words for them. */
export class Refused extends Error {}

/** The log-in is over: the session was ended, or its tokens are gone. */
export class SessionOver extends Error {
  isFinal = true;
}

function installId() {
  let id = localStorage.getItem(INSTALL);
  if (!id) localStorage.setItem(INSTALL, (id = crypto.getRandomValues(new Uint32Array(4)).join("-")));
  return id;
}

const device = () => JSON.stringify({ install_id: installId(), platform: "web", name: "Browser" });

export class Session {
  #flow = "";
  #refreshing = null;

  get isLoggedIn() {
    return this.#load() !== null;
  }

  logIn(email, password) {
    return this.#call("POST", "auth/login", { email, password });
  }

  signUp(name, email, password) {
    return this.#call("POST", "auth/signup", { name, email, password });
  }

  verify(key) {
    return this.#call("POST", "auth/email/verify", { key });
  }

  requestReset(email) {
    return this.#call("POST", "auth/password/request", { email });
  }

  reset(key, password) {
    return this.#call("POST", "auth/password/reset", { key, password });
  }

  async logOut() {
    await this.#call("DELETE", "auth/session").catch(() => {});
    this.forget();
  }

  forget() {
    localStorage.removeItem(STORE);
    this.#flow = "";
  }

  /** An access token that works for a while; `fresh` when the present one was refused. */
  async token(fresh = false) {
    const tokens = this.#load();
    if (!tokens) throw new SessionOver();
    if (!fresh && tokens.until > Date.now() + LEAST_SECONDS * 1000) return tokens.access;
    this.#refreshing ??= this.#refreshOnce(tokens.access).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  /** Tabs share the tokens; one of them renews, the others find the new ones. */
  #refreshOnce(old) {
    const renew = async () => {
      const tokens = this.#load();
      if (!tokens) throw new SessionOver();
      if (tokens.access !== old) return tokens.access;
      return this.#refresh(tokens.refresh);
    };
    return navigator.locks ? navigator.locks.request(STORE, renew) : renew();
  }

  async #refresh(refreshToken) {
    const answer = await fetch("/v1/auth/token/refresh", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ refresh_token: refreshToken }),
    });
    if (answer.status === 401) {
      this.forget();
      throw new SessionOver();
    }
    if (!answer.ok) throw new Error(`refresh: ${answer.status}`);
    return this.#keep(await answer.json());
  }

  /** Ask allauth; returns whether somebody is logged in now, or false when a code has to be entered first. */
  async #call(method, path, body) {
    const headers = { "Content-Type": "application/json", "X-Roost-Device": device() };
    const tokens = this.#load();
    if (tokens) headers.Authorization = `Bearer ${tokens.access}`;
    else if (this.#flow) headers["X-Session-Token"] = this.#flow;
    let answer;
    try {
      answer = await fetch(`/_allauth/app/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
    } catch {
      throw new Refused("The server cannot be reached.");
    }
    if (answer.status === 429) throw new Refused("Too many tries. Please wait a little.");
    if (answer.status >= 500) throw new Refused("The server cannot do this right now. Please try again.");
    const { meta = {}, errors = [] } = await answer.json();
    this.#flow = meta.session_token ?? (answer.status === 410 ? "" : this.#flow);
    if (errors.length) throw new Refused(errors.map((error) => error.message).join(" "));
    if (answer.status === 409 || answer.status === 410) throw new Refused("That took too long. Please start again.");
    if (!meta.access_token) return false;
    this.#keep(meta);
    return true;
  }

  #keep({ access_token, refresh_token, expires_in = 900 }) {
    const tokens = { access: access_token, refresh: refresh_token, until: Date.now() + expires_in * 1000 };
    localStorage.setItem(STORE, JSON.stringify(tokens));
    this.#flow = "";
    return access_token;
  }

  #load() {
    return JSON.parse(localStorage.getItem(STORE) ?? "null");
  }
}
