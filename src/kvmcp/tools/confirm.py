"""Asking before several keys are removed for good, where the operator wants that (`--confirm-destructive`).

One handler for both eras: a client that can show a form asks its person, whatever the model says; another one gets a
refusal, which the model answers with `confirm: true` once it is sure.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec
from msgspec import Meta, Struct, defstruct

from kvmcp.core.plan import AskClient, ClientThen, Context, Plan
from kvmcp.core.wire.common import ClientAnswer, ElicitForm, ElicitResult
from kvmcp.tools.answers import CONFIRMATION_REQUIRED, TOO_LARGE, Fault, encode, failed
from kvmcp.tools.definition import Offered, Planner, Row
from kvmcp.tools.room import named

ASK_FROM_KEYS: Final = 2
"""Calls that remove so many keys ask first: one is what a model meant, more may be more than it meant."""
MAX_ASKED_BYTES: Final = 32 * 1024
"""Arguments of a call that asks first: in the modern era they travel with the question, see `Limits.state_bytes`."""

Confirm: TypeAlias = Annotated[
    bool, Meta(description="true once you are sure: calls that remove several keys are refused without it.")
]

_FORM: Final = (
    b'{"type":"object","properties":{"confirm":{"type":"boolean","title":"Remove them for good",'
    b'"default":false}},"required":["confirm"]}'
)
_DECLINED: Final = Fault(
    CONFIRMATION_REQUIRED,
    "the person was asked and did not agree; nothing was removed; do not try again unasked",
)


class _Said(Struct):
    confirm: bool = False


class Asking(Struct, frozen=True):
    """A row that asks first: the arguments it takes, its plan, and the continuation that remembers the call."""

    arguments: type[Struct]
    plan: Planner
    then: type[Struct]


def asking(row: Row, plan: Planner, offered: Offered) -> Asking:
    """Let `plan` ask first where a call removes several keys."""
    arguments = defstruct(
        row.arguments.__name__,
        [("confirm", Confirm, False)],
        bases=(row.arguments,),
        frozen=True,
        forbid_unknown_fields=True,
    )

    def resume(self: Any, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return plan(self.arguments, context) if _agreed(answers.get("confirm")) else failed(_DECLINED)

    then = defstruct(
        "Confirmed",
        [("arguments", arguments)],
        namespace={"resume": resume},
        frozen=True,
        tag=f"confirm {row.name}",
    )

    def first(given: Any, context: Context) -> Plan:
        keys = tuple(dict.fromkeys(row.removes(given, offered))) if row.removes is not None else ()
        if given.dry_run or len(keys) < ASK_FROM_KEYS:
            return plan(given, context)
        form = ElicitForm(f"Remove {len(keys)} keys for good: {named(keys)}?", _FORM)
        if not context.client_capabilities.offers(form):
            return plan(given, context) if given.confirm else failed(_unconfirmed(len(keys)))
        question = then(given)
        if len(encode(question)) > MAX_ASKED_BYTES:
            return failed(_TOO_LONG)
        # A struct of the tag and the arguments, with the `resume` above.
        return AskClient({"confirm": form}, cast(ClientThen, question))

    return Asking(arguments, first, then)


_TOO_LONG: Final = Fault(
    TOO_LARGE,
    f"arguments of more than {MAX_ASKED_BYTES} bytes cannot be confirmed by a person; split the call",
)


def _unconfirmed(keys: int) -> Fault:
    return Fault(
        CONFIRMATION_REQUIRED,
        f"this would remove {keys} keys for good; nothing was removed; look with dry_run: true, then call again "
        "with confirm: true",
    )


def _agreed(said: ClientAnswer | None) -> bool:
    """Whether a person accepted the form and said yes in it."""
    if not isinstance(said, ElicitResult) or said.action != "accept" or said.content is msgspec.UNSET:
        return False
    try:
        return msgspec.json.decode(said.content, type=_Said).confirm
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
