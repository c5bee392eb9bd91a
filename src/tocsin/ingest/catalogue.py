"""A tool's side-effect class from its name, for tools that do not state it.

Verbs decide: the first known verb in the name's words wins, except that a name about leaving the system (a web page,
an invitation) is egress whatever the verb. It is a guess, so `tocsin.tool.effect` and MCP annotations come before it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from tocsin.model.events import Effect

EFFECTS: Final[dict[str, Effect]] = {
    "read": Effect.READ,
    "write": Effect.WRITE,
    "egress": Effect.EGRESS,
    "final": Effect.FINAL,
}

_READ: Final = (
    "get list read search find lookup look query fetch show view describe count check inspect retrieve load open scan "
    "summarize summarise compare calculate compute validate verify analyze analyse grep cat ls glob stat head tail "
    "select explain preview status is has"
)
_WRITE: Final = (
    "create update delete write add remove insert set edit append cancel reschedule schedule reserve book rename move "
    "copy save store put patch modify replace assign approve reject merge commit apply install uninstall enable "
    "disable start stop restart run execute exec eval bash shell python change reset grant revoke drop truncate "
    "restore archive close mkdir rm mv cp touch buy order refund register tag label log record import generate draft"
)
_EGRESS: Final = (
    "send post email mail message notify publish upload share invite transfer pay forward reply tweet push export "
    "submit broadcast call dial sms fax webhook curl wget http request browse navigate download crawl scrape"
)
_VERBS: Final[dict[str, Effect]] = {
    **dict.fromkeys(_READ.split(), Effect.READ),
    **dict.fromkeys(_WRITE.split(), Effect.WRITE),
    **dict.fromkeys(_EGRESS.split(), Effect.EGRESS),
}
# Words that mean the outside whatever is done with them: a URL read is a URL told.
_OUTSIDE: Final = frozenset(("webpage", "url", "website", "web", "http", "https", "webhook", "invite", "browser"))
_FINAL: Final = frozenset(("_final", "final_answer", "final", "answer", "finish", "respond_to_user"))
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@lru_cache(maxsize=4096)
def effect_of(tool: str) -> Effect:
    """Side-effect class of the tool of that name; UNKNOWN where no word of it is known."""
    if tool.lower() in _FINAL:
        return Effect.FINAL
    words = [word.lower() for word in _WORDS.findall(tool[:256])]
    if any(word in _OUTSIDE for word in words):
        return Effect.EGRESS
    for word in words:
        effect = _VERBS.get(word)
        if effect is not None:
            return effect
    return Effect.UNKNOWN
