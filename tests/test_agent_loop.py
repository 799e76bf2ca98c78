"""The loop on the real path of requests: calls, errors that go back to the model, limits, classes of failure, and a trace of all of it."""

import dataclasses
import json
import threading
from typing import Literal

import httpx2
import openai
import pytest

import poclab
from conftest import completion, plain_cases
from poclab import agent, scores
from poclab.agent import Sandbox, ToolError, World
from poclab.agent.tools import LONGEST_ERROR
from poclab.cases import Case
from poclab.errors import EndpointError, InputError
from poclab.system import CaseContext, Prompt, current_case
from poclab.transport import adapter

SCRIPT = """
CREATE TABLE tickets (id INTEGER PRIMARY KEY, text TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'open');
INSERT INTO tickets (id, text) VALUES (1, 'lamp'), (2, 'x''); DROP TABLE tickets; --'), (3, 'kettle');
"""
POLICY = Prompt("policy.md", "Do what is asked.")


def get_ticket(world: World, ticket_id: int) -> dict:
    """Look up a ticket."""
    found = world.rows("SELECT * FROM tickets WHERE id = ?", ticket_id)
    if not found:
        raise ToolError(f"there is no ticket {ticket_id}")
    return found[0]


def close_ticket(world: World, ticket_id: int, state: Literal["closed", "spam"] = "closed") -> str:
    """Close a ticket."""
    world.db.execute("UPDATE tickets SET status = ? WHERE id = ?", (state, ticket_id))
    return f"{ticket_id} is {state}"


def add_ticket(world: World, text: str) -> int:
    """Add a ticket."""
    return world.db.execute("INSERT INTO tickets (text) VALUES (?)", (text,)).lastrowid


def half_way(world: World) -> None:
    """Fail after half of the work."""
    world.db.execute("DELETE FROM tickets")
    raise RuntimeError("the power went")


def leave(world: World) -> None:
    """End the process, if it could."""
    raise SystemExit(3)


def megabyte(world: World) -> str:
    """Say a lot."""
    return "x" * 1_000_000


def broken_text(world: World) -> str:
    """Say half a character."""
    return "a" + chr(0xD800)


def hang(world: World) -> None:
    """Never come back."""
    world.db.execute("DELETE FROM tickets WHERE id = 3")
    threading.Event().wait()


TOOLS = [get_ticket, close_ticket, add_ticket, half_way, leave, megabyte, broken_text, hang]
CLOSED = {"table": "tickets", "key": {"id": 1}, "changed": {"status": "closed"}}


def calls(*asked):
    """Return an answer of a model that calls tools, each given by name and arguments (a dict, or a text as it stands)."""
    made = [
        {
            "id": f"c{number}",
            "type": "function",
            "function": {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(asked)
    ]
    return completion(None, "tool_calls", tool_calls=made)


class Script:
    """A model that answers by turn: the first answer first, and the last one for ever; it keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = [completion(one) if isinstance(one, str) else one for one in answers]
        self.bodies = []

    def __call__(self, request):
        body = json.loads(request.content)
        self.bodies.append(body)
        turn = sum(one["role"] == "assistant" for one in body["messages"])
        answer = json.dumps(self.answers[min(turn, len(self.answers) - 1)])  # in ASCII: half a character goes as its escape
        return httpx2.Response(200, content=answer.encode(), headers={"content-type": "application/json"})

    @property
    def told(self):
        """What the model was told by tools, in the last request."""
        return [one["content"] for one in self.bodies[-1]["messages"] if one["role"] == "tool"]


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an agent with a scripted model."""
    (tmp_path / "world.sql").write_text(SCRIPT)
    sandbox = Sandbox(tmp_path / "world.sql", folder=tmp_path / "worlds")

    def build(script, **parameters):
        version = poclab.Version("scripted", prompt=POLICY, **parameters)
        built = agent.build(version, tools=TOOLS, sandbox=sandbox)
        transport = adapter(httpx2)(lambda: httpx2.MockTransport(script))
        client = openai.OpenAI(base_url="http://model.test/v1", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))
        used = {**built.version.parameters, "model": "m"}
        return dataclasses.replace(built, client=client, version=poclab.Version("scripted", **used))

    build.worlds = tmp_path / "worlds"
    return build


def result(make, *answers, expected=(CLOSED,), timeout_s=30.0, says=(), **parameters):
    """Return what becomes of one case, and the script."""
    script = Script(*answers)
    case = Case("q1", {"task": "Close ticket 1."}, {"effects": list(expected), **({"answers": list(says)} if says else {})})
    success = scores.every("success", agent.effects(ignore=["tickets.id"]), scores.contains(abstentions=()))
    report = poclab.evaluate(make(script, **parameters), [case], [success], timeout_s=timeout_s)
    assert sorted(make.worlds.glob("of-*")) == []  # whatever happened
    return report.results[0], script


def test_an_agent_calls_tools_until_it_answers(make):
    """Two calls of one message are both answered, in order; the reply has the text, the changes and the calls."""
    found, script = result(make, calls(("get_ticket", {"ticket_id": 1}), ("close_ticket", {"ticket_id": 1})), "Closed.")

    assert (found.outcome, found.reply.text) == ("ok", "Closed.")
    assert found.reply.effects == ({"table": "tickets", "key": {"id": 1}, "before": {"status": "open"}, "after": {"status": "closed"}},)
    assert [(one["tool"], one["turn"]) for one in found.reply.tools] == [("get_ticket", 1), ("close_ticket", 1)]
    assert script.told == ['{"id": 1, "text": "lamp", "status": "open"}', "1 is closed"]
    first = script.bodies[0]
    assert [one["role"] for one in first["messages"]] == ["system", "user"]
    assert [one["function"]["name"] for one in first["tools"]] == [one.__name__ for one in TOOLS]
    assert len(found.calls) == 2


def test_a_row_more_a_claim_without_a_row_and_a_task_done_twice_are_wrong(make):
    """Right is who made the right change, and no other: what an agent says of itself does not count."""
    added = {"table": "tickets", "added": {"text": "new", "status": "open"}}
    close, add = ("close_ticket", {"ticket_id": 1}), ("add_ticket", {"text": "new"})

    assert result(make, calls(close), "Done.")[0].outcome == "ok"
    more, _ = result(make, calls(close, add), "Done.")
    assert more.outcome == "wrong"
    assert more.scores["success"].reason == 'effects: not expected: tickets: + id 4, text "new", status "open"'
    claimed, _ = result(make, "Done: I closed ticket 1.")
    assert claimed.outcome == "wrong"
    assert claimed.scores["success"].reason == 'effects: missing: tickets 1: status -> "closed"'
    assert result(make, calls(add), "Done.", expected=[added])[0].outcome == "ok"
    twice, _ = result(make, calls(add), calls(add), "Done.", expected=[added])
    assert twice.outcome == "wrong"
    assert twice.scores["success"].reason == 'effects: not expected: tickets: + id 5, text "new", status "open"'


def test_a_task_that_has_to_be_refused_takes_no_change_and_a_reason(make):
    """Who changes nothing and says why is right; who only says that it is done, or changes something, is not."""
    close = ("close_ticket", {"ticket_id": 1})

    assert result(make, "I did not: it is closed already.", expected=(), says=["closed already"])[0].outcome == "ok"
    assert result(make, "Done.", expected=(), says=["closed already"])[0].outcome == "wrong"
    assert result(make, calls(close), "It is closed already.", expected=(), says=["closed already"])[0].outcome == "wrong"
    assert result(make, "I don't know.", expected=(CLOSED,))[0].outcome == "abstained"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("half_way", {}), "error: RuntimeError: the power went"),
        (("leave", {}), "error: RuntimeError: SystemExit(3)"),
        (("rm_rf", {"path": "/"}), f"error: there is no tool 'rm_rf'; there are: {', '.join(one.__name__ for one in TOOLS)}"),
        (("close_ticket", {"ticket_id": "one"}), 'error: ticket_id: Input should be a valid integer (found "one")'),
        (("close_ticket", {"ticket_id": 1, "state": "gone"}), "error: state: Input should be 'closed' or 'spam' (found \"gone\")"),
        (("close_ticket", '{"ticket_id": 1'), "error: arguments: Invalid JSON"),
        (("get_ticket", {"ticket_id": 99}), "error: there is no ticket 99"),
        (("add_ticket", {"text": None}), "error: text: Input should be a valid string (found null)"),
    ],
)
def test_what_goes_wrong_in_a_tool_is_told_to_the_model_which_may_go_on(make, asked, told):
    """A tool that raises has changed nothing; one that is unknown, or called with what does not fit, was not called. The case can still be right."""
    found, script = result(make, calls(asked), calls(("close_ticket", {"ticket_id": 1})), "Closed.")

    assert script.told[0].startswith(told)
    assert found.reply.tools[0]["error"] and "error" not in found.reply.tools[1]
    assert found.outcome == "ok"


HALF = "a" + chr(0xD800)


@pytest.mark.parametrize(
    "asked",
    [
        ("add_ticket", '{"text": "' + HALF + '"}'),
        ("add_ticket", '{"text": "\\ud800"}'),
        ("rm" + HALF, "{}"),
        ("broken_text", {}),
        ("close_ticket", '{"ticket_id": ' + "[" * 200 + "]" * 200 + "}"),
        ("close_ticket", '{"ticket_id": 1e999}'),
        ("close_ticket", '{"ticket_id": ' + "9" * 10_000 + "}"),
    ],
    ids=["half a character", "its escape", "in a name", "of a tool", "nested deeply", "infinite", "too long a number"],
)
def test_what_no_request_could_carry_does_not_end_the_case(make, asked):
    """Halves of characters, numbers and depths that JSON or a report cannot hold: the model may go on, and the reply is kept."""
    more = [{"table": "tickets", "added": {"text": {"contains": "a"}, "status": "open"}}] if asked[1] == '{"text": "' + HALF + '"}' else []
    found, _ = result(make, calls(asked), calls(("close_ticket", {"ticket_id": 1})), "Closed.", expected=(CLOSED, *more))

    assert found.outcome == "ok"
    assert json.dumps(found.to_json(), ensure_ascii=False).encode()


def test_an_agent_that_gives_up_after_an_error_is_wrong(make):
    """The error is the model's to deal with: the case is not a crashed one."""
    found, _ = result(make, calls(("half_way", {})), "It did not work.")

    assert (found.outcome, found.failure, found.reply.effects) == ("wrong", None, ())


def test_a_tool_that_returns_a_megabyte_is_cut(make):
    """The model is shown the beginning, and told so; neither the request nor the report holds the rest."""
    found, script = result(make, calls(("megabyte", {})), calls(("close_ticket", {"ticket_id": 1})), "Closed.", result_chars=500)

    assert script.told[0].endswith("[cut: these are the first 500 of 1000000 characters]")
    assert found.outcome == "ok"
    assert found.reply.tools[0]["result"].endswith("...") and len(found.reply.tools[0]["result"]) == LONGEST_ERROR
    assert len(json.dumps(found.to_json())) < 10_000


def test_a_tool_that_hangs_is_a_timeout_and_says_what_was_done(make):
    """The case does not wait for it; what it had not finished does not count, and what was done before is in the error."""
    found, _ = result(make, calls(("close_ticket", {"ticket_id": 1})), calls(("hang", {})), "Closed.", tool_timeout_s=0.3)

    assert (found.outcome, found.failure) == ("timeout", "timeout")
    assert 'tool \'hang\' took longer than 0.3 s; by then it had changed: tickets 1: status "open" -> "closed"' in found.error
    assert found.scores["success"].value == 0


def test_a_tool_has_no_more_time_than_its_case(make):
    """It ends before the case does, so that the world can be removed."""
    found, _ = result(make, calls(("hang", {})), "Closed.", timeout_s=3.0)

    assert found.outcome == "timeout"
    assert "by then it had changed: nothing" in found.error


def test_an_agent_that_goes_round_in_circles_is_stopped(make):
    """After so many turns it is `truncated`: it has not answered, whatever it changed."""
    found, script = result(make, calls(("close_ticket", {"ticket_id": 1})), max_turns=3)

    assert found.outcome == "truncated"
    assert "used up its 3 turns; by then it had changed: tickets 1" in found.problem
    assert len(script.bodies) == 3


def test_an_agent_that_spends_too_much_is_stopped(make):
    """What its calls cost is held against its limit before the next one; where nobody knows, it is not asked on."""
    found, script = result(make, calls(("get_ticket", {"ticket_id": 1})), "Closed.", max_cost_usd=0.01)

    assert found.outcome == "truncated"
    assert "what a call cost is not known" in found.error
    assert len(script.bodies) == 1


def test_the_cost_of_a_case_is_bounded(make):
    """Spent is what its calls cost; 15 tokens at a thousand dollars a million are 0.015."""
    case = CaseContext(case_id="q1")
    built = make(Script(calls(("get_ticket", {"ticket_id": 1})), "Closed."), max_cost_usd=0.01)
    token = current_case.set(case)
    try:
        case.calls.append(poclab.system.Call("m", "/chat/completions", 0.1, 200, 10, 5, cost_usd=0.015))
        with pytest.raises(agent.loop.Stopped, match=r"has spent \$0.0150 of \$0.01"):
            built({"task": "Close ticket 1."})
    finally:
        current_case.reset(token)


def test_ten_calls_of_ten_cents_are_a_dollar(make):
    """Added one by one in Python they are less, and there would be an eleventh."""
    script = Script("Closed.")
    case = CaseContext(calls=[poclab.system.Call("m", "/chat/completions", 0.1, 200, cost_usd=0.1)] * 10)
    token = current_case.set(case)
    try:
        with pytest.raises(agent.loop.Stopped, match=r"has spent \$1.0000 of \$1;"):
            make(script, max_cost_usd=1.0)({"task": "Close ticket 1."})
    finally:
        current_case.reset(token)
    assert script.bodies == []


def given(**message):
    """Return an answer of a model with other things in its message."""
    answer = calls(("close_ticket", {"ticket_id": 1}))
    answer["choices"][0]["message"] |= message
    return answer


CALL = {"type": "function", "function": {"name": "close_ticket", "arguments": {"ticket_id": 1}}}


@pytest.mark.parametrize("asked", [[CALL], [{**CALL, "id": None}]])
def test_a_call_without_an_id_or_with_plain_arguments_is_made(make, asked):
    """Some servers leave the id out, and do not write arguments as a text: what goes back to them has both."""
    found, script = result(make, given(tool_calls=asked), "Closed.")

    assert found.outcome == "ok"
    made, answered = script.bodies[-1]["messages"][-2:]
    assert made["tool_calls"] == [{"id": "call_1_0", "type": "function", "function": {**CALL["function"], "arguments": '{"ticket_id": 1}'}}]
    assert answered["tool_call_id"] == "call_1_0"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (completion(""), "malformed_output"),
        ({**completion("x"), "choices": []}, "malformed_output"),
        ({**completion("x"), "choices": None}, "malformed_output"),
        ({**completion("x"), "choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}, "malformed_output"),
        (completion([{"type": "text", "text": "a"}]), "malformed_output"),
        (completion("", "length"), "truncated"),
        (completion("", "content_filter"), "refused"),
        (completion(None, refusal="No."), "refused"),
        (calls(("", "{}")), "truncated"),
    ],
)
def test_a_model_that_says_nothing_has_a_class(make, answer, outcome):
    """No text and no call is no answer; a call of nothing is told to the model, over and over."""
    assert result(make, answer, max_turns=2)[0].outcome == outcome


def test_sql_in_a_text_stays_a_text(make):
    """Neither what a ticket says nor what a model writes is run: values are bound, never written into a statement."""
    evil = "'); DELETE FROM tickets; --"
    added = {"table": "tickets", "added": {"text": evil, "status": "open"}}
    found, script = result(make, calls(("get_ticket", {"ticket_id": 2}), ("add_ticket", {"text": evil})), "Noted.", expected=[added])

    assert "DROP TABLE tickets" in script.told[0]
    assert found.outcome == "ok"


def ask_a_model(world: World) -> str:
    """Ask a model from within a tool."""
    client = poclab.models.client(base_url="http://127.0.0.1:9/v1", api_key="k")
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=10).choices[0].message.content


@pytest.mark.parametrize("within", ["the loop", "a tool"])
def test_an_evaluation_without_money_left_is_a_matter_of_the_budget(make, tmp_path, within):
    """Whoever asks, the loop or a tool, which is told an error: the case is one of the budget, and is asked again when there is money."""
    cases = plain_cases(tmp_path, 2)
    script = Script(calls(("ask_a_model", {})), "Done.")
    built = make(script)
    if within == "a tool":  # the agent itself answers offline, for nothing
        tools = [ask_a_model]
        built = agent.build(poclab.Version("v", prompt=POLICY), tools=tools, sandbox=built.sandbox)
    report = poclab.evaluate(lambda inputs: built({"task": "Ask a model."}), cases, [scores.contains()], max_cost_usd=1e-9, traces="none")

    assert {one.failure for one in report.results} == {"budget"}
    assert script.bodies == []


def test_an_endpoint_that_fails_keeps_its_class(make):
    """What is no fault of the agent's is not called one."""
    script = lambda request: httpx2.Response(400, json={"error": {"message": "no"}})  # noqa: E731
    report = poclab.evaluate(make(script), [Case("q1", {"task": "x"}, {"effects": []})], [agent.effects()])

    assert report.results[0].failure == "crashed"


def test_the_same_agent_does_many_cases_side_by_side(make):
    """Sixty cases and repeats on eight workers, each in a world of its own: none sees the rows of another."""
    script = Script(calls(("add_ticket", {"text": "new"})), "Done.")
    expected = {"effects": [{"table": "tickets", "added": {"id": 4, "text": "new", "status": "open"}}]}
    cases = [Case(f"q{number}", {"task": "Add a ticket."}, expected) for number in range(30)]
    report = poclab.evaluate(make(script), cases, [agent.effects()], repeats=2)

    assert report.mean("effects") == 1.0
    assert report.mean("all_of_2") == 1.0


def test_the_first_message_may_be_all_of_the_prompt(make):
    """With `{{task}}` in it the prompt is the user's message; else it is the system's."""
    script = Script("No.")
    built = dataclasses.replace(make(script))
    parameters = {**built.version.parameters, "prompt": Prompt("p.md", "Your task: {{task}} Go.")}
    dataclasses.replace(built, version=poclab.Version("v", **parameters))({"task": "Close {{task}}."})

    assert script.bodies[0]["messages"] == [{"role": "user", "content": "Your task: Close {{task}}. Go."}]


def test_what_the_version_says_is_what_is_used(make):
    """Defaults, the tools and the world belong to the version: other tools or another world are another one."""
    built = make(Script("x"))
    parameters = built.version.parameters

    assert (parameters["max_turns"], parameters["max_tokens"], parameters["tool_timeout_s"]) == (12, 1000, 10.0)
    assert parameters["tool_names"] == "get_ticket close_ticket add_ticket half_way leave megabyte broken_text hang"
    assert len(parameters["tools_digest"]) == len(parameters["world_digest"]) == 12
    other = agent.build(poclab.Version("scripted", prompt=POLICY), tools=TOOLS[:2], sandbox=built.sandbox)
    assert other.version.parameters["tools_digest"] != parameters["tools_digest"]
    assert other.code_digest != built.code_digest
    again = agent.build(other.version, tools=TOOLS[:2], sandbox=built.sandbox)  # a version as a bench hands it on
    assert again.version == other.version


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"max_turn": 3}, "unknown parameter 'max_turn'"),
        ({"max_turns": 0}, "max_turns must be a whole number >= 1"),
        ({"result_chars": 10}, "result_chars must be"),
        ({"prompt": "Do it."}, "prompt must be a poclab.Prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": Prompt("p", "{{question}}")}, "unknown placeholder"),
    ],
)
def test_a_parameter_that_is_none_is_refused_before_a_model_is_asked(parameters, found):
    """With its name, what it must be, and what was found."""
    with pytest.raises(InputError, match=found):
        agent.build(poclab.Version("v", **{"prompt": POLICY, **parameters}), tools=TOOLS)


def test_an_unknown_offline_model_is_refused(make):
    """As for every system."""
    with pytest.raises(EndpointError, match="unknown offline model"):
        make(Script("x"), model="offline/rule")


@pytest.mark.parametrize("inputs", [{"question": "x"}, {"task": 3}, {"task": "x", "more": "y"}])
def test_inputs_of_another_shape_are_refused(make, inputs):
    """An agent does one task."""
    with pytest.raises(InputError, match="an agent does"):
        make(Script("x"))(inputs)


def test_every_step_is_a_span(make):
    """A case holds each model call, each tool with its arguments and result, and the difference, in order."""
    case = CaseContext(case_id="q1")
    built = make(Script(calls(("close_ticket", {"ticket_id": 1}), ("half_way", {})), "Closed."))
    token = current_case.set(case)
    try:
        built({"task": "Close ticket 1."})
    finally:
        current_case.reset(token)

    assert [one.kind for one in case.steps] == ["CHAT_MODEL", "TOOL", "TOOL", "CHAT_MODEL", "TASK"]
    closed, failed, difference = (case.steps[place] for place in (1, 2, 4))
    assert (closed.name, closed.inputs, closed.outputs) == ("close_ticket", {"ticket_id": 1}, "1 is closed")
    assert (failed.name, failed.error) == ("half_way", "RuntimeError: the power went")
    assert (difference.name, difference.outputs) == ("difference", ['tickets 1: status "open" -> "closed"'])
