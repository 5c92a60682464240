/** Logging in, signing up and a new password: one form that shows what the step needs. */

import { byId, h } from "./dom.js";
import { Refused } from "./session.js";

const STEPS = {
  login: { fields: ["email", "password"], submit: "Log in", hint: "Log in to talk.", other: ["signup", "No account yet? Sign up"] },
  signup: { fields: ["name", "email", "password"], submit: "Sign up", hint: "A name, an address and a password are all it takes.", other: ["login", "Have an account? Log in"] },
  verify: { fields: ["code"], submit: "Confirm", hint: "We have sent a code to your address.", other: ["login", "Start again"] },
  forgot: { fields: ["email"], submit: "Send a code", hint: "Where should the code go?", other: ["login", "Back to log-in"] },
  reset: { fields: ["code", "password"], submit: "Set password", hint: "Enter the code that we have sent, and a new password.", other: ["login", "Start again"] },
};

export class Entrance {
  #session;
  #entered;
  #step = "login";
  #form = byId("entrance-form");
  #forgot;

  constructor(session, entered) {
    this.#session = session;
    this.#entered = entered;
    this.#forgot = h("button", { class: "link", type: "button", onclick: () => this.#show("forgot") }, "Forgot your password?");
    byId("entrance-switch").after(this.#forgot);
    byId("entrance-switch").addEventListener("click", () => this.#show(STEPS[this.#step].other[0]));
    this.#form.addEventListener("submit", (event) => this.#submit(event));
  }

  open(hint = "") {
    byId("entrance").hidden = false;
    this.#show("login");
    if (hint) byId("entrance-hint").textContent = hint;
  }

  close() {
    byId("entrance").hidden = true;
    this.#form.reset();
  }

  #show(step) {
    this.#step = step;
    const { fields, submit, hint, other } = STEPS[step];
    for (const name of ["name", "email", "password", "code"]) {
      const field = byId(`${name}-field`);
      field.hidden = !fields.includes(name);
      field.querySelector("input").required = fields.includes(name);
    }
    this.#form.password.autocomplete = step === "login" ? "current-password" : "new-password";
    byId("entrance-hint").textContent = hint;
    byId("entrance-submit").textContent = submit;
    byId("entrance-switch").textContent = other[1];
    byId("entrance-error").textContent = "";
    this.#forgot.hidden = step !== "login";
    this.#form[fields[0]].focus();
  }

  async #submit(event) {
    event.preventDefault();
    byId("entrance-error").textContent = "";
    const empty = STEPS[this.#step].fields.find((name) => !this.#form[name].value.trim());
    if (empty) return this.#form[empty].focus();
    byId("entrance-submit").disabled = true;
    try {
      await this.#take();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      byId("entrance-error").textContent = error.message;
    } finally {
      byId("entrance-submit").disabled = false;
    }
  }

  async #take() {
    const { name, email, password, code } = Object.fromEntries(new FormData(this.#form));
    const session = this.#session;
    const steps = {
      login: () => session.logIn(email, password),
      signup: () => session.signUp(name, email, password),
      verify: () => session.verify(code.trim()),
      forgot: () => session.requestReset(email),
      reset: () => session.reset(code.trim(), password),
    };
    if (await steps[this.#step]()) return this.#entered();
    this.#show({ forgot: "reset", reset: "login" }[this.#step] ?? "verify");
  }
}
