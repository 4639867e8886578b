// Follows a plan, as JSON on standard input, with a client of Node: `ws`, from the directory given, or the built-in one.
// Prints a report as JSON. The other end of node.py.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [which, packages] = process.argv.slice(2);
const plan = JSON.parse(readFileSync(0, "utf8"));

const deadline = setTimeout(() => {
  console.error("the plan was not done in time");
  process.exit(1);
}, 60_000);

function open() {
  if (which === "builtin") return new WebSocket(plan.url, plan.protocols);
  const { WebSocket: Ws } = createRequire(packages + "/")("ws");
  return new Ws(plan.url, plan.protocols, { perMessageDeflate: plan.compress });
}

// Both clients have the browsers' interface, which is the one that applications use.
const socket = open();
socket.binaryType = "arraybuffer";
const inbox = [];
let wake = () => {};
const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
socket.addEventListener("message", (event) => { inbox.push(event.data); wake(); });
socket.addEventListener("error", (event) => console.error("error:", event.message ?? event.error?.message ?? "unknown"));

const opened = new Promise((resolve) => socket.addEventListener("open", resolve));
if (await Promise.race([opened.then(() => true), closed.then(() => false)]) === false) {
  console.error("not opened");
  process.exit(1);
}

async function next() {
  while (inbox.length === 0) {
    const arrived = new Promise((resolve) => { wake = resolve; });
    if (await Promise.race([arrived.then(() => false), closed.then(() => true)])) return undefined;
  }
  return inbox.shift();
}

function content({ kind, data }) {
  return kind === "text" ? data : Buffer.from(data, "base64");
}

function isSame(answer, message) {
  if (answer === undefined || (typeof answer === "string") !== (typeof message === "string")) return false;
  return typeof answer === "string" ? answer === message : message.equals(Buffer.from(answer));
}

const same = [];
for (const each of plan.messages) {
  const message = content(each);
  socket.send(message);
  same.push(isSame(await next(), message));
}
if (plan.last !== null) socket.send(content(plan.last));
const agreed = { protocol: socket.protocol, extensions: socket.extensions };
if (plan.code !== null) socket.close(plan.code, plan.reason);
const { code, reason, wasClean } = await closed;
clearTimeout(deadline);
console.log(JSON.stringify({ same, ...agreed, code, reason, wasClean }));
