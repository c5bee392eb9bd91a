// The status page: polls the JSON interface and writes text. Agents' names are hostile, so nothing is ever parsed as HTML.
"use strict";
const POLL_MS = 1000;
const element = (id) => document.getElementById(id);

function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function fill(parent, children) {
  parent.replaceChildren(...children);
}

function row(cells) {
  const line = make("tr");
  for (const cell of cells) {
    const box = make("td");
    box.append(cell instanceof Node ? cell : document.createTextNode(String(cell)));
    line.append(box);
  }
  return line;
}

async function read(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function level(agent) {
  if (agent.confidence >= 0.9) return "s3";
  if (agent.confidence >= 0.5) return "s2";
  return agent.confidence >= 0.1 ? "s1" : "s0";
}

function showCounts(status) {
  const shown = [
    ["agents", status.agents], ["events analysed", status.events], ["evidence items", status.evidence_stated],
    ["certified epoch", status.epoch], ["agents flagged", status.agents_flagged], ["events waiting", status.backlog_events],
    ["regions", status.tree.regions], ["zones", status.tree.zones],
  ];
  fill(element("counts"), shown.map(([name, value]) => {
    const box = make("div");
    box.append(make("dt", name), make("dd", Number(value).toLocaleString("en")));
    return box;
  }));
  const caught = new Set(status.equivocators);
  const signed = new Set(status.last_signers);
  fill(element("monitors"), Array.from({ length: status.monitors }, (_, i) =>
    make("li", `monitor ${i}${signed.has(i) ? " signed" : ""}${caught.has(i) ? ", caught lying" : ""}`, caught.has(i) ? "out" : "")));
  element("quorum").textContent =
    `A verdict needs ${status.quorum} of ${status.monitors} signatures; up to ${status.tolerated_faults} may lie or be silent.`;
}

function showAgents(agents) {
  fill(element("fleet"), agents.map((agent) => {
    const cell = make("span", undefined, `${level(agent)}${agent.flagged ? " flagged" : ""}`);
    cell.title = `${agent.agent_id}: ${(100 * agent.confidence).toFixed(1)} %`;
    return cell;
  }));
  fill(element("agents"), agents.slice(0, 20).map((agent) => row([
    agent.agent_id, agent.region, agent.events, `${(100 * agent.confidence).toFixed(1)} %`,
    agent.log_e_nats.toFixed(1), agent.flagged ? "compromised" : "",
  ])));
}

function showVerdicts(verdicts) {
  element("no-verdicts").hidden = verdicts.length > 0;
  fill(element("verdicts"), verdicts.map((verdict) => {
    const link = make("a", "download");
    link.href = `/api/v1/verdicts/${encodeURIComponent(verdict.verdict_id)}/certificate`;
    link.download = `${verdict.verdict_id}.cert.json`;
    return row([verdict.epoch, verdict.agent_id, verdict.decision, link]);
  }));
}

async function poll() {
  try {
    const [status, agents, verdicts] = await Promise.all(
      [read("/api/v1/status"), read("/api/v1/agents?limit=2000"), read("/api/v1/verdicts?limit=200")]);
    showCounts(status);
    showAgents(agents);
    showVerdicts(verdicts);
    element("line").textContent = `live · ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    element("line").textContent = `no answer from tocsin (${error.message}); trying again`;
  }
  setTimeout(poll, POLL_MS);
}

poll();
