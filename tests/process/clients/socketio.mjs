// The package `socket.io-client`, from the directory given, driven line by line: orders as JSON on standard input, answers and events
// as JSON on standard output. Bytes are {"bytes": base64}. The other end of socket_io.py.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { Manager } = createRequire(process.argv[2] + "/")("socket.io-client");
const sockets = new Map();
let manager;

function say(message) {
  console.log(JSON.stringify(message));
}

function pack(value) {
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(pack);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, pack(each)]));
}

function unpack(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(unpack);
  if (typeof value.bytes === "string") return Buffer.from(value.bytes, "base64");
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, unpack(each)]));
}

function open(namespace, auth) {
  const socket = manager.socket(namespace, { auth });
  sockets.set(namespace, socket);
  socket.on("connect", () => say({ event: "connect", namespace, data: [] }));
  socket.on("disconnect", (reason) => say({ event: "disconnect", namespace, data: [reason] }));
  socket.on("connect_error", (error) => say({ event: "connect_error", namespace, data: [error.message] }));
  socket.onAny((event, ...data) => {
    const acknowledge = typeof data.at(-1) === "function" ? data.pop() : () => {};
    say({ event, namespace, data: pack(data) });
    acknowledge({ answer: data[0] });
  });
}

const orders = {
  connect({ url, transports, namespaces, auth }) {
    manager = new Manager(url, { transports, reconnectionDelay: 100, reconnectionDelayMax: 500, timeout: 10_000 });
    for (const namespace of namespaces) open(namespace, auth);
  },
  call({ id, namespace, event, data }) {
    sockets.get(namespace).emit(event, ...unpack(data), (...answer) => say({ id, data: pack(answer) }));
  },
  leave() {
    for (const socket of sockets.values()) socket.disconnect();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  orders[order.order](order);
}
process.exit(0);
