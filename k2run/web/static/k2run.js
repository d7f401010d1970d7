// The page of k2run. Everything works without it but the liveness: the server draws all parts, this puts them in.
"use strict";

// --- putting a new drawing in the place of an old one, without taking focus, typed text or opened details away -------

function same(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
}

function dress(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
  }
}

function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (!same(old, fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  dress(old, fresh);
  const wanted = [...fresh.childNodes];
  for (let at = 0; at < wanted.length; at += 1) {
    const present = old.childNodes[at];
    if (!present) old.append(wanted[at]);
    else if (same(present, wanted[at])) morph(present, wanted[at]);
    else {
      const later = wanted[at].id && [...old.children].find((child) => same(child, wanted[at]));
      if (later) {
        old.insertBefore(later, present);
        morph(later, wanted[at]);
      } else old.insertBefore(wanted[at], present);
    }
  }
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

function put(id, html) {
  const old = document.getElementById(id);
  if (!old) return;
  const box = document.createElement("template");
  box.innerHTML = html.trim();
  const fresh = box.content.firstElementChild;
  if (!fresh) return;
  sign(fresh);
  morph(old, fresh);
}

function sign(element) {
  for (const field of element.querySelectorAll('input[name="csrf"]')) field.setAttribute("value", document.body.dataset.csrf);
}

// --- clocks -----------------------------------------------------------------------------------------------------------

const clockwork = { offset: 0, runs: false };

function setClock(now, state) {
  clockwork.offset = performance.now() / 1000 - now;
  clockwork.runs = state === "running";
}

function span(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)}s`;
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${String(whole % 60).padStart(2, "0")}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}m`;
}

function tick() {
  if (!clockwork.runs) return;
  const now = performance.now() / 1000 - clockwork.offset;
  for (const hand of document.querySelectorAll("[data-since]")) {
    const spent = Math.max(0, now - Number(hand.dataset.since));
    const budget = Number(hand.dataset.budget);
    const text = span(spent);
    if (hand.textContent !== text) hand.textContent = text;
    hand.parentElement.classList.toggle("late", budget > 0 && spent > budget);
    hand.parentElement.classList.toggle("close", budget > 0 && spent <= budget && spent > 0.8 * budget);
  }
  for (const hand of document.querySelectorAll("[data-until]")) {
    hand.textContent = span(Math.max(0, Number(hand.dataset.until) - now));
  }
}

// --- following a run ----------------------------------------------------------------------------------------------------

function say(link, word, text) {
  if (!link) return;
  link.className = `link ${word}`;
  link.textContent = text;
  link.setAttribute("aria-label", `connection: ${text}`);
}

function follow(live) {
  const link = document.getElementById("link");
  setClock(Number(live.dataset.now), live.dataset.state);
  let wait = 500;
  const open = () => {
    const source = new EventSource(live.dataset.stream);
    source.onopen = () => {
      wait = 500;
      say(link, "on", "live");
    };
    source.onmessage = (event) => {
      const { now, state, parts } = JSON.parse(event.data);
      setClock(now, state);
      for (const [id, html] of Object.entries(parts)) put(id, html);
    };
    source.onerror = () => {
      say(link, "off", "reconnecting");
      if (source.readyState !== EventSource.CLOSED) return;
      askToSignIn();
      setTimeout(open, wait); // refused rather than cut off: the browser does not try again by itself
      wait = Math.min(wait * 2, 10000);
    };
  };
  open();
  setInterval(tick, 100);
}

// A session that has ended is refused its events; the page itself then leads to signing in.
async function askToSignIn() {
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", redirect: "manual" });
    if (answer.type === "opaqueredirect") location.reload();
  } catch {
    // The server is away; the next refusal asks again.
  }
}

// --- parts that are asked for again now and then ---------------------------------------------------------------------------

function refresh(element) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(element.dataset.refresh, { credentials: "same-origin" });
      if (!answer.ok) return;
      const fresh = element.cloneNode(false);
      fresh.innerHTML = await answer.text();
      morph(element, fresh);
    } catch {
      // The server is away; the next turn asks again.
    }
  }, Number(element.dataset.every) * 1000);
}

// --- signing in with the link that the server prints: what follows # never leaves the browser by itself ---------------------

function enter(form) {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.querySelector("#token").value = decodeURIComponent(token);
  form.requestSubmit();
}

const live = document.getElementById("live");
if (live) follow(live);
for (const element of document.querySelectorAll("[data-refresh]")) refresh(element);
const form = document.getElementById("enter");
if (form) {
  enter(form);
  addEventListener("hashchange", () => enter(form)); // the link is opened where the form is shown already
}
