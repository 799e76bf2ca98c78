"""What was done is scored from a case and its reply alone, the database afterwards included."""

import json

import pytest

import poclab
from poclab import agent, scores
from poclab.agent import Sandbox
from poclab.cases import Case
from poclab.errors import InputError
from poclab.evaluation import Plan
from poclab.report import Report
from poclab.scores import Score, Scorer
from poclab.system import Reply

SCRIPT = "CREATE TABLE refunds (id INTEGER PRIMARY KEY, order_id INTEGER, cents INTEGER); INSERT INTO refunds VALUES (1, 7, 100);"
REFUND = {"table": "refunds", "key": {"id": 2}, "after": {"id": 2, "order_id": 12, "cents": 3000}}


@pytest.fixture
def sandbox(tmp_path):
    (tmp_path / "world.sql").write_text(SCRIPT)
    return Sandbox(tmp_path / "world.sql", folder=tmp_path / "worlds")


def case(**expected):
    return Case("q1", {"task": "x"}, expected)


def used(*names, error=""):
    return Reply(
        "x",
        tools=[{"tool": name, "arguments": {}, "turn": turn, **({"error": error} if error else {})} for turn, name in enumerate(names, 1)],
    )


def test_effects_say_what_was_found_and_why_it_is_wrong():
    """The answer is the difference, the reason the verdict on it; columns of no interest are left out of it."""
    expected = case(effects=[{"table": "refunds", "added": {"order_id": 12, "cents": 2500}}])
    score = agent.effects(ignore=["refunds.id"])(expected, Reply("Done.", effects=[REFUND]))

    assert score.value is False
    assert score.answer == "refunds: + id 2, order_id 12, cents 3000"
    assert score.reason == "not as expected: refunds: + id 2, order_id 12, cents 3000 (cents 3000, expected 2500)"
    assert agent.effects()(case(effects=[]), Reply("No.")) == Score(True, "no change", "as expected: no change")
    assert agent.effects()(case(answers=["x"]), Reply("x")) is None


def test_a_question_in_sql_is_asked_of_the_database_afterwards(sandbox):
    """Made again from the world and the changes: nothing has to be kept open until a case is scored."""
    done = agent.task_done(sandbox)
    expected = case(done="SELECT sum(cents) = 3100 FROM refunds")

    assert done(expected, Reply("x", effects=[REFUND])).value is True
    assert done(expected, Reply("x")) == Score(False, "0", "SELECT sum(cents) = 3100 FROM refunds gives 0")
    assert done(case(done="SELECT 1 FROM refunds WHERE id = 99"), Reply("x")).value is False
    assert done(case(effects=[]), Reply("x")) is None


def test_a_function_may_ask_it_instead(sandbox):
    """It gets the case, the reply and a connection that can only read; then every case is asked."""

    def all_of_it(case, reply, database):
        return database.execute("SELECT max(cents) FROM refunds").fetchone()[0] == 3000 and reply.text == "x"

    done = agent.task_done(sandbox, all_of_it)
    assert done(case(effects=[]), Reply("x", effects=[REFUND])).value is True
    assert done(case(effects=[]), Reply("y", effects=[REFUND])).value is False


def test_a_question_that_is_no_sql_leaves_the_score_incomplete(sandbox):
    """It is the label that is wrong, not the agent: nothing is decided on it."""
    report = poclab.evaluate(lambda inputs: "x", [case(done="SELEKT 1")], [agent.task_done(sandbox)])

    assert report.results[0].scores["task_done"].value is None
    assert "syntax error" in report.results[0].scores["task_done"].reason


def test_a_saved_report_is_scored_as_its_run_was(sandbox, tmp_path):
    """Changes and calls of tools go to JSON and back."""
    reply = Reply("x", effects=[REFUND], tools=[{"tool": "refund", "arguments": {"order_id": 12}, "turn": 1}])
    given = [agent.effects(reported=True), agent.task_done(sandbox, reported=True), agent.tools_used(["refund"])]
    expected = case(done="SELECT sum(cents) = 3100 FROM refunds", effects=[{"table": "refunds", "added": REFUND["after"]}])
    report = poclab.evaluate(lambda inputs: reply, [expected], given)
    report.save(tmp_path / "report.json")
    kept = Report.load(tmp_path / "report.json").results[0].reply

    assert [report.mean(one.name) for one in given] == [1.0, 1.0, 1.0]
    assert [one(expected, kept).value for one in given] == [True, True, True]


def test_tools_are_needed_forbidden_and_in_an_order():
    """Others may lie between; a call that failed has not done what was needed, and one of a forbidden tool is one all the same."""
    score = agent.tools_used(["look"], forbidden=["delete"], ordered=["look", "close"])

    assert score(case(effects=[]), used("look", "note", "close")).value is True
    assert score(case(effects=[]), used("close", "look")).reason == "not in this order: look, close"
    assert score(case(effects=[]), used("look", "delete", "close", "delete")).reason == "delete was called"
    assert score(case(effects=[]), used("look", "close", error="no")).reason == "look was not called; not in this order: look, close"
    assert agent.tools_used(forbidden=["delete"])(case(effects=[]), used("delete", error="no")).value is False


@pytest.mark.parametrize("name", ["needed", "forbidden", "ordered"])
def test_one_text_in_place_of_a_list_of_names_is_refused(name):
    """Its letters would be taken for names, and the numbers be wrong without a word."""
    with pytest.raises(InputError, match=f"{name} is a list of names, found 'close'"):
        agent.tools_used(**{name: "close"})
    with pytest.raises(InputError, match="ignore is a list of names"):
        agent.effects(ignore="created_at")


def test_turns_are_counted_with_the_one_of_the_answer():
    """Two turns with calls and one that answers are three."""
    assert agent.turns(at_most=3)(case(effects=[]), used("look", "close")) == Score(True, "3", "3 turn(s), 3 at most")
    assert agent.turns(at_most=2)(case(effects=[]), used("look", "close")).value is False
    assert agent.turns(at_most=1)(case(effects=[]), Reply("No.")).value is True


def test_every_takes_all_scores_that_apply():
    """Right is who is right in each of them; the reason is that of the first that is not."""
    both = scores.every("success", agent.effects(), scores.contains())

    assert both(case(effects=[], answers=["30 days"]), Reply("Over 30 days.")).value is True
    wrong = both(case(effects=[], answers=["30 days"]), Reply("No."))
    assert (wrong.value, wrong.reason) == (False, "contains: does not contain '30 days'")
    assert both(case(effects=[]), Reply("No.")).value is True  # no words are expected
    assert both(case(data={"n": 1}), Reply("x")) is None
    assert both.failed(case(effects=[]), "crashed").value == 0


def test_every_is_unknown_where_one_of_them_is():
    """A scorer that cannot tell must not make a case right or wrong."""
    unknown = Scorer("unknown", lambda case, reply: Score(None, "", "no answer from the judge"))

    assert scores.every("success", agent.effects(), unknown)(case(effects=[]), Reply("x")).value is None


def test_the_story_of_a_case_goes_from_the_task_to_the_difference():
    """Line by line, each fit for a terminal, whatever a model or a tool wrote: broken between words, and what is very long is cut."""
    reply = Reply(
        "Done \x1b[2J.",
        effects=[REFUND],
        tools=[
            {"tool": "look", "arguments": {}, "turn": 1, "result": "word " * 30},
            {"tool": "look", "arguments": {}, "turn": 1, "result": "x" * 700},
            {"tool": "refund", "arguments": {"order_id": 12}, "turn": 1, "error": "no\nway"},
        ],
    )
    report = poclab.evaluate(lambda inputs: reply, [case(effects=[])], [agent.effects(reported=True)])
    lines = agent.story(report.results[0]).split("\n")

    assert lines == [
        "task      q1: x",
        "expected  (no change)",
        "turn 1    look({})",
        "          -> " + " ".join(["word"] * 17),
        "          " + " ".join(["word"] * 13),
        "turn 1    look({})",
        *("          -> " + "x" * 87, *["          " + "x" * 90] * 5, "          " + "x" * 60 + " ... (703 characters)"),
        'turn 1    refund({"order_id": 12})',
        "          -> error: no\\nway",
        "said      Done \\x1b[2J.",
        "changed   refunds: + id 2, order_id 12, cents 3000",
        "verdict   effects 0: not expected: refunds: + id 2, order_id 12, cents 3000",
    ]
    assert json.dumps(report.results[0].reply.to_json()["tools"]) == json.dumps(list(reply.tools))


def test_a_story_says_each_verdict_once():
    """What `success` says of a part is not said again; of many accepted answers it names the first."""
    success = scores.every("success", agent.effects(reported=True), scores.contains())
    expected = case(effects=[], answers=["too late", "over 30", "30 days", "too old"])
    told = agent.story(evaluated(lambda inputs: Reply("No."), expected, success, agent.effects(reported=True), agent.turns(3)))

    assert told.split("\n") == [
        "task      q1: x",
        "expected  (no change); says too late | over 30 | 30 days | ... (4 accepted)",
        "said      No.",
        "changed   nothing",
        "verdict   success 0: contains: does not contain any of 4: 'too late', 'over 30', '30 days', ...",
        "verdict   effects 1: as expected: no change",
        "verdict   turns 1: 1 turn(s), 3 at most",
    ]


def test_a_story_shows_data_and_the_turn_of_a_call_as_text():
    """A system of one's own may answer without words, and what it says of its calls is no more to be trusted than what it calls."""

    def of_own(case, reply):
        return True

    reply = Reply(data={"n": 1}, tools=[{"tool": "look", "arguments": {}, "turn": "\x1b[2J"}])
    told = agent.story(evaluated(lambda inputs: reply, case(effects=[]), of_own))

    assert 'said      {"n": 1}' in told
    assert "turn \\x1b[2J" in told and "\x1b" not in told


def evaluated(system, expected, *given):
    return poclab.evaluate(system, [expected], given).results[0]


def test_who_forgets_to_commit_is_told(sandbox):
    """What a connection did is not in the database before that; the reason says so, and only where something was lost."""
    expected = case(effects=[{"table": "refunds", "added": REFUND["after"]}])

    def works(commits):
        def system(inputs):
            with sandbox.open() as world:
                world.db.execute("INSERT INTO refunds VALUES (2, 12, 3000)")
                if commits:
                    world.db.commit()
                return Reply("Done.", effects=world.difference())

        return evaluated(system, expected, agent.effects()).scores["effects"]

    assert works(True).value is True
    assert works(False).reason.startswith("missing: refunds: +")
    assert works(False).reason.endswith("; what was not committed was undone: end with world.db.commit()")


def test_changes_that_no_world_of_the_case_told_are_worth_nothing(sandbox):
    """What a system makes up is 0, and the reason says so; those of a world that it opened count, the last that it told."""
    expected = case(done="SELECT sum(cents) = 3100 FROM refunds", effects=[{"table": "refunds", "added": REFUND["after"]}])
    given = [agent.effects(), agent.task_done(sandbox)]
    left = []

    def honest(inputs):
        with sandbox.open() as world:
            world.db.execute("INSERT INTO refunds VALUES (2, 12, 3000)")
            world.db.commit()
            left[:] = [one.to_json() for one in world.difference()]
            return Reply("Done.", effects=left)

    def from_before(inputs):
        with sandbox.open() as world:
            world.difference()
            return Reply("Done.", effects=left)

    def silent(inputs):
        with sandbox.open() as world:
            world.db.execute("DELETE FROM refunds")
            world.db.commit()
            world.difference()
            return Reply("I changed nothing.")

    def values(found):
        return [one.value for one in found.scores.values()]

    async def awaited(inputs):
        return honest(inputs)

    assert values(evaluated(honest, expected, *given)) == values(evaluated(awaited, expected, *given)) == [True, True]
    made_up = evaluated(lambda inputs: Reply("Done.", effects=[REFUND]), expected, *given)
    assert (made_up.outcome, values(made_up)) == ("wrong", [False, False])
    assert made_up.scores["effects"].reason.startswith("the reply tells changes, and its case opened no world of the sandbox (a thread")
    earlier = evaluated(from_before, expected, *given)
    assert (values(earlier), earlier.scores["effects"].reason) == (
        [False, False],
        "the reply does not tell what the world of its case told last",
    )
    assert values(evaluated(silent, case(effects=[]), *given)) == [False]
    assert values(evaluated(lambda inputs: "No.", case(effects=[]), *given)) == [True]  # who refuses need not open one
    own = [agent.effects(reported=True), agent.task_done(sandbox, reported=True)]
    assert values(evaluated(lambda inputs: Reply("Done.", effects=[REFUND]), expected, *own)) == [True, True]


def test_a_reply_that_was_kept_is_scored_again_as_it_is(sandbox):
    """A run that goes on asks only what is missing: nobody can look at the world of a case that is long over."""
    expected = case(effects=[{"table": "refunds", "added": REFUND["after"]}])
    report = poclab.evaluate(lambda inputs: Reply("Done.", effects=[REFUND]), [expected], [agent.effects(reported=True)])
    plan = Plan(lambda inputs: "no", poclab.TestSet([expected]), [agent.effects()], poclab.Version("v"))
    plan.keep(report.results, again=lambda one: False)

    assert plan.score(plan.ask(plan.tasks[0])).scores["effects"].value is True


@pytest.mark.parametrize(
    "given",
    [
        {"effects": ["sent a mail"]},
        {"effects": REFUND},
        {"effects": [{"table": "refunds", "key": 2, "after": {"id": 2}}]},
        {"effects": [{"table": "refunds", "after": [1]}]},
        {"effects": [{"table": "refunds", "key": {"id": 2}}]},
        {"effects": [{"table": ["refunds"], "after": {}}]},
        {"tools": ["refund"]},
        {"tools": [{"tool": "refund", "turn": "one"}]},
    ],
)
def test_a_reply_whose_changes_or_calls_cannot_be_read_is_malformed(given):
    """A wrong answer of that class, and no number without a value; its story says what was found. A score of one's own may read it."""
    success = scores.every("success", agent.effects(), agent.turns(3), scores.contains())
    report = poclab.evaluate(lambda inputs: Reply("Done.", **given), [case(effects=[], answers=["done"])], [success])
    found = report.results[0]

    assert (found.failure, found.scores["success"].value, report.mean("success")) == ("malformed_output", 0.0, 0.0)
    assert "said      not a c" in agent.story(found)

    def of_own(case, reply):
        return True

    own = evaluated(lambda inputs: Reply("Done.", **given), case(effects=[]), of_own)
    assert own.outcome == "ok" and agent.story(own)


def test_the_story_of_a_case_that_failed_says_why():
    """There is no reply, and what was changed stands in the error, if at all."""

    def crash(inputs):
        raise ValueError("no desk")

    report = poclab.evaluate(crash, [case(effects=[])], [agent.effects()])

    assert "said      ValueError: no desk" in agent.story(report.results[0])
