// The status page: polls the JSON interface and writes text. Agents' names are hostile, so nothing is ever parsed as HTML.
"use strict";
const POLL_MS = 1000;
const TOKEN = "tocsin-token"; // in sessionStorage: gone with the tab, never in a URL
const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function belief(share) { // certainty is never claimed by rounding
  if (share > 0.9999) return "> 99.99 %";
  return share < 0.0001 ? "< 0.01 %" : percent(share);
}

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

function boxes(pairs) {
  return pairs.map(([name, value]) => {
    const box = make("div");
    box.append(make("dt", name), make("dd", typeof value === "number" ? value.toLocaleString("en") : value));
    return box;
  });
}

async function send(path, options = {}) {
  const headers = { accept: "application/json", ...options.headers };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    element("token-form").hidden = false;
    throw new Error(token ? "it does not accept this token" : "it asks for a token");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

const read = async (path) => (await send(path)).json();

function level(agent) {
  if (agent.learning_events_left > 0 && !agent.flagged) return "learning";
  if (agent.confidence >= 0.9) return "s3";
  if (agent.confidence >= 0.5) return "s2";
  return agent.confidence >= 0.1 ? "s1" : "s0";
}

function state(agent) {
  const parts = agent.flagged ? ["compromised"] : agent.cleared ? ["cleared"] : [];
  if (agent.feedback) parts.push(`people say: ${agent.feedback}`);
  const left = agent.learning_events_left;
  if (left > 0 && !parts.length) parts.push(`learning, ${left} event${left === 1 ? "" : "s"} to go`);
  return parts.join("; ");
}

// Copied names must stay as they are, so a hyphen in a name of usual length is kept on its line by style alone.
const named = (name) => make("span", name, name.length <= 40 ? "name whole" : "name");

function showCounts(status) {
  fill(element("counts"), boxes([
    ["agents", status.agents], ["of them still learning", status.agents_learning], ["events analysed", status.events],
    ["evidence items", status.evidence_stated], ["certified epoch", status.epoch < 0 ? "none yet" : status.epoch],
    ["agents flagged", status.agents_flagged], ["events waiting", status.backlog_events],
    ["regions", status.tree.regions], ["zones", status.tree.zones],
  ]));
  const caught = new Set(status.equivocators);
  const signed = new Set(status.last_signers);
  const vote = (i) => (signed.has(i) ? " signed" : signed.size ? ", not among the last signers" : "");
  fill(element("monitors"), Array.from({ length: status.monitors }, (_, i) =>
    make("li", `monitor ${i}${vote(i)}${caught.has(i) ? ", caught lying" : ""}`, caught.has(i) ? "out" : "")));
  element("quorum").textContent =
    `A verdict needs ${status.quorum} of ${status.monitors} signatures; up to ${status.tolerated_faults} may lie or be silent.`;
}

function showAgents(agents) {
  element("no-agents").hidden = agents.length > 0;
  fill(element("fleet"), agents.map((agent) => {
    const cell = make("span", undefined, `${level(agent)}${agent.flagged ? " flagged" : ""}`);
    cell.title = `${agent.agent_id}: ${belief(agent.confidence)} ${state(agent)}`;
    return cell;
  }));
  fill(element("agents"), agents.slice(0, 20).map((agent) => row([
    named(agent.agent_id), agent.region, agent.events, belief(agent.confidence), agent.log_e_nats.toFixed(1), state(agent),
  ])));
}

async function download(verdictId) {
  const answer = await send(`/api/v1/verdicts/${encodeURIComponent(verdictId)}/certificate`);
  const link = make("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `${verdictId}.cert.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function button(text, action, pressed) {
  const node = make("button", text);
  node.type = "button";
  if (pressed !== undefined) node.setAttribute("aria-pressed", String(pressed));
  node.addEventListener("click", () => action().catch(fail));
  return node;
}

async function judge(agentId, outcome) {
  await send("/api/v1/feedback", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ agent_id: agentId, outcome }),
  });
  await refresh();
}

function judged(verdict, latest) {
  const box = make("span");
  if (verdict.decision !== "compromised") return box;
  if (!latest) return make("span", verdict.feedback);
  for (const [outcome, text] of [["confirmed", "right"], ["benign", "false alarm"]]) {
    box.append(button(text, () => judge(verdict.agent_id, outcome), verdict.feedback === outcome));
  }
  return box;
}

let shownVerdicts = "";
function showVerdicts(verdicts) {
  const now = JSON.stringify(verdicts);
  if (now === shownVerdicts) return; // a button must not vanish under the pointer
  shownVerdicts = now;
  element("no-verdicts").hidden = verdicts.length > 0;
  const seen = new Set(); // feedback is about an agent's latest alarm
  fill(element("verdicts"), verdicts.map((verdict) => {
    const latest = verdict.decision === "compromised" && !seen.has(verdict.agent_id);
    if (latest) seen.add(verdict.agent_id);
    return row([
      new Date(verdict.decided_ms).toLocaleString(), verdict.epoch, named(verdict.agent_id), verdict.decision,
      verdict.reasons.slice(0, 3).join("; "), judged(verdict, latest), button("download", () => download(verdict.verdict_id)),
    ]);
  }));
}

function showQuality(quality) {
  const shares = quality.false_share;
  const known = shares.realised !== null;
  fill(element("quality"), boxes([
    ["target share of false alarms", percent(shares.target)],
    ["realised, of labelled alarms", known ? percent(shares.realised) : "not known"],
    ["95 % interval", known ? `${percent(shares.interval[0])} to ${percent(shares.interval[1])}` : "–"],
    ["alarms labelled", `${shares.labelled} of ${shares.alarms}`],
    ["missed, as reported", quality.missed],
  ]));
  const judgement = `${shares.judgement}.`;
  element("judgement").textContent = judgement[0].toUpperCase() + judgement.slice(1);
  const power = quality.known_power;
  const delays = Object.entries(power.median_delay_events).map(([fleet, events]) => `${fleet}: ${events}`).join("; ");
  element("power-source").textContent = `Measured beforehand (${power.source}). Median events from the first harmful one ` +
    `to the alarm: ${delays}. Median from a request to its certified verdict: ${power.median_request_to_verdict_ms} ms (${power.latency_source}).`;
  fill(element("power"), power.rows.map((one) => row([
    one.fleet, one.kind, `${one.found} of ${one.total}`, `${percent(one.interval[0])} to ${percent(one.interval[1])}`,
  ])));
}

function fail(error) {
  element("line").textContent = `no answer from tocsin (${error.message}); trying again`;
}

async function refresh() {
  const [status, agents, verdicts, quality] = await Promise.all(
    ["status", "agents?limit=2000", "verdicts?limit=200", "quality"].map((path) => read(`/api/v1/${path}`)));
  showCounts(status);
  showAgents(agents);
  showVerdicts(verdicts);
  showQuality(quality);
  element("line").textContent = `live · ${new Date().toLocaleTimeString()}`;
}

async function poll() {
  if (element("token-form").hidden) await refresh().catch(fail); // else whoever reads this is asked for a token
  setTimeout(poll, POLL_MS);
}

element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, element("token").value);
  element("token").value = "";
  element("token-form").hidden = true;
  refresh().catch(fail);
});
poll();
