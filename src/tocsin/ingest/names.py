"""What telemetry calls things: concept -> attribute names, most trusted first.

OpenTelemetry's GenAI conventions still move and frameworks have their own, so names are data, not a schema.
Sources: OpenTelemetry semantic conventions 1.3x (gen-ai, mcp), OpenInference, OpenLLMetry/Traceloop, LangSmith.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tocsin.wire.otlp import Wanted

METRIC_PREFIX: Final = "tocsin.metric."

AGENT_EXPLICIT: Final = ("tocsin.agent.id",)
AGENT_ID: Final = ("gen_ai.agent.id", "agent.id")
AGENT_NAME: Final = ("gen_ai.agent.name", "agent.name", "graph.node.id")
ROLE: Final = ("tocsin.agent.role",)
CONTEXT: Final = ("tocsin.context",)
CONVERSATION: Final = (
    "gen_ai.conversation.id",
    "session.id",
    "langsmith.metadata.thread_id",
    "langsmith.trace.session_id",
    "traceloop.association.properties.session_id",
    "mcp.session.id",
)
TOOL: Final = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name", "mcp.tool.name")
TOOL_EFFECT: Final = ("tocsin.tool.effect",)
TOOL_ARGUMENTS_DIGEST: Final = ("tocsin.tool.args",)
PROMPT_SIGNATURE: Final = ("tocsin.prompt.signature",)
INPUT_TOKENS: Final = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
    "prompt_tokens",
)
OUTPUT_TOKENS: Final = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
    "completion_tokens",
)
ERROR: Final = ("error.type", "exception.type")
RPC_STATUS: Final = ("rpc.response.status_code",)
MCP_METHOD: Final = ("mcp.method.name",)
MCP_READ_ONLY: Final = ("mcp.tool.annotations.readOnlyHint", "mcp.tool.annotations.read_only_hint")
MCP_DESTRUCTIVE: Final = ("mcp.tool.annotations.destructiveHint", "mcp.tool.annotations.destructive_hint")
MCP_OPEN_WORLD: Final = ("mcp.tool.annotations.openWorldHint", "mcp.tool.annotations.open_world_hint")

# Raw text: digested on arrival, never kept.
RAW_ARGUMENTS: Final = ("gen_ai.tool.call.arguments", "tool.parameters", "traceloop.entity.input")
RAW_RESULT: Final = ("gen_ai.tool.call.result", "traceloop.entity.output")
RAW_INPUT: Final = ("gen_ai.input.messages", "gen_ai.prompt")
RAW_OUTPUT: Final = ("gen_ai.output.messages", "gen_ai.completion")

ENVIRONMENT: Final = ("deployment.environment.name", "deployment.environment")
NAMESPACE: Final = ("service.namespace",)
SERVICE: Final = ("service.name",)

OPERATION: Final = (
    "gen_ai.operation.name",
    "openinference.span.kind",
    "traceloop.span.kind",
    "langsmith.span.kind",
)
# What those attributes say, in lower case -> GenAI operation.
OPERATIONS: Final[dict[str, str]] = {
    "execute_tool": "execute_tool",
    "tool": "execute_tool",
    "chat": "chat",
    "text_completion": "chat",
    "generate_content": "chat",
    "llm": "chat",
    "invoke_agent": "invoke_agent",
    "agent": "invoke_agent",
}
MCP_CALL: Final = "tools/call"

WANTED: Final = Wanted(
    (
        AGENT_EXPLICIT, AGENT_ID, AGENT_NAME, ROLE, CONTEXT, CONVERSATION, TOOL, TOOL_EFFECT, TOOL_ARGUMENTS_DIGEST,
        PROMPT_SIGNATURE, INPUT_TOKENS, OUTPUT_TOKENS, ERROR, RPC_STATUS, MCP_METHOD, MCP_READ_ONLY, MCP_DESTRUCTIVE,
        MCP_OPEN_WORLD, RAW_ARGUMENTS, RAW_RESULT, RAW_INPUT, RAW_OUTPUT, ENVIRONMENT, NAMESPACE, SERVICE, OPERATION,
    ),
    METRIC_PREFIX,
)  # fmt: skip


def first(attributes: Mapping[str, Any], concept: tuple[str, ...]) -> Any:
    """The attribute filed under `concept`, None where it is absent or empty."""
    value = attributes.get(concept[0])
    return None if value == "" else value


def text(attributes: Mapping[str, Any], concept: tuple[str, ...], limit: int = 256) -> str:
    """Like `first`, as a string of at most `limit` characters; '' where absent or not a scalar."""
    value = attributes.get(concept[0])
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:limit]
    return str(value)[:limit] if isinstance(value, int | float) else ""


def operation(attributes: Mapping[str, Any], span_name: str) -> str:
    """GenAI operation of a span ('execute_tool', 'chat', 'invoke_agent', or '' for anything else)."""
    value = attributes.get("gen_ai.operation.name")
    if isinstance(value, str) and value:
        return OPERATIONS.get(value) or OPERATIONS.get(value.lower(), "")
    if is_mcp_call(attributes, span_name):
        return "execute_tool"
    # The conventions name a span '{operation} {target}'.
    head, _, rest = span_name.partition(" ")
    return OPERATIONS[head] if rest and head in ("execute_tool", "chat", "invoke_agent") else ""


def is_mcp_call(attributes: Mapping[str, Any], span_name: str) -> bool:
    """Whether the span is an MCP `tools/call`, on the client's or the server's side."""
    return attributes.get("mcp.method.name") == MCP_CALL or span_name.startswith("tools/call ")
