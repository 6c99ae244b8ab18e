// The page: draws the picture that the node sends, and tells what changed from one picture to the next. Reads only.
"use strict";

const NEWS_MAX = 100;
const STATE_CLASS = { running: "running", complete: "done", shutdown: "done", failed: "bad", rejected: "bad", orphaned: "bad" };
const byId = (id) => document.getElementById(id);
let last = null;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function drawQuorum(picture) {
  const quorum = picture.reachable > picture.managers / 2;
  const leader = picture.leader ? `${picture.leader} leads` : "no leader";
  byId("quorum").textContent = `${leader} · ${picture.reachable} of ${picture.managers} managers reachable${quorum ? "" : ", no quorum"}`
    + ` · ${picture.nodes.length} nodes · ${picture.services.length} services`;
  byId("quorum").className = quorum && picture.leader ? "running" : "bad";
}

function bar(label, part) {
  const box = make("div");
  box.append(make("span", `${label} ${Math.round(part * 100)} %`));
  const outer = make("div", undefined, "bar"), inner = make("i");
  inner.style.width = `${Math.min(100, part * 100)}%`;
  outer.append(inner);
  box.append(outer);
  return box;
}

function drawTask(task) {
  const square = make("button", task.slot || "•", `task ${STATE_CLASS[task.state] || "wait"}`);
  square.type = "button";
  square.id = `task-${task.id}`;
  const name = `${task.service}.${task.slot || task.node_name}`;
  square.title = `${name}: ${task.state}`;
  square.setAttribute("aria-label", square.title);
  square.addEventListener("click", () => show({ name, ...task }));
  return square;
}

function drawNodes(picture) {
  const held = document.activeElement && document.activeElement.id;
  const cards = picture.nodes.map((node) => {
    const card = make("article", undefined, "node");
    const title = make("h3", node.name);
    title.append(make("span", node.state, node.state === "ready" ? "running" : "bad"));
    const what = [node.leader ? "leader" : node.role, node.availability, node.addr].filter(Boolean).join(" · ");
    const tasks = make("div", undefined, "tasks");
    tasks.append(...picture.tasks.filter((task) => task.node === node.id && task.wanted).map(drawTask));
    card.append(title, make("p", what));
    if (node.cpus) card.append(bar("processors reserved", node.cpus_reserved));
    if (node.memory) card.append(bar("memory reserved", node.memory_reserved));
    card.append(tasks);
    return card;
  });
  byId("nodes").replaceChildren(...cards);
  if (held && held.startsWith("task-") && byId(held)) byId(held).focus();
}

function drawServices(picture) {
  const rows = picture.services.map((service) => {
    const row = make("tr");
    const full = service.running >= service.desired;
    row.append(make("td", service.name), make("td", service.mode), make("td", `${service.running}/${service.desired}`, full ? "running" : "wait"),
      make("td", service.runs), make("td", service.ports), make("td", service.update));
    return row;
  });
  document.querySelector("#services tbody").replaceChildren(...rows);
}

function drawWaiting(picture) {
  const lines = picture.tasks.filter((task) => task.wanted && task.why).map((task) => {
    const line = make("li");
    line.append(make("strong", `${task.service}.${task.slot} ${task.state}: `, STATE_CLASS[task.state] || "wait"), make("span", task.why));
    return line;
  });
  byId("waiting").replaceChildren(...(lines.length ? lines : [make("li", "nothing")]));
}

function tell(text) {
  const line = make("li", `${new Date().toLocaleTimeString()}  ${text}`);
  byId("news").prepend(line);
  while (byId("news").childElementCount > NEWS_MAX) byId("news").lastChild.remove();
}

function compare(before, now) {
  const old = new Map(before.tasks.map((task) => [task.id, task]));
  for (const task of now.tasks) {
    const was = old.get(task.id);
    if (!was || was.state !== task.state) tell(`task ${task.service}.${task.slot} ${task.state}${task.node_name ? ` on ${task.node_name}` : ""}${task.why ? `: ${task.why}` : ""}`);
  }
  const nodes = new Map(before.nodes.map((node) => [node.id, node]));
  for (const node of now.nodes) {
    const was = nodes.get(node.id);
    if (!was) tell(`node ${node.name} joined`);
    else if (was.state !== node.state || was.availability !== node.availability) tell(`node ${node.name} is ${node.state}, ${node.availability}`);
  }
  if (before.leader !== now.leader) tell(now.leader ? `${now.leader} leads` : "the leader is lost");
}

function show(thing) {
  byId("facts").textContent = Object.entries(thing).map(([key, value]) => `${key}: ${value}`).join("\n");
  byId("detail").hidden = false;
  byId("close").focus();
}

function draw(picture) {
  drawQuorum(picture);
  drawNodes(picture);
  drawServices(picture);
  drawWaiting(picture);
  if (last) compare(last, picture);
  last = picture;
}

byId("close").addEventListener("click", () => { byId("detail").hidden = true; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") byId("detail").hidden = true; });
const source = new EventSource("/ui/pictures");
source.onmessage = (message) => draw(JSON.parse(message.data));
source.onerror = () => { byId("quorum").textContent = "the node does not answer; trying again…"; byId("quorum").className = "bad"; };
