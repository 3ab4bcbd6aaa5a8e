"""An index of who wants to hear of what agrees with a plain list of wishes, whatever was asked for and taken back."""

from hypothesis import given, strategies as st

from kvmcp.core.http.interests import Interests

WISHES = st.lists(st.tuples(st.integers(0, 4), st.frozensets(st.sampled_from("abcd"))), max_size=30)


@given(WISHES)
def test_it_knows_who_asked_for_what(wishes: list[tuple[int, frozenset[str]]]) -> None:
    index: Interests[str, int] = Interests()
    plain: dict[int, frozenset[str]] = {}
    for member, topics in wishes:
        index.set(member, topics)
        plain[member] = topics
    for topic in "abcd":
        assert sorted(index.of(topic)) == sorted(one for one, topics in plain.items() if topic in topics)
    assert index.size == sum(map(len, plain.values()))


def test_who_asked_first_hears_first_and_nothing_is_left_behind() -> None:
    index: Interests[str, int] = Interests()
    for member in (2, 1, 3):
        index.set(member, ["a"])
    index.set(2, ["a", "b"])
    assert index.of("a") == [2, 1, 3]
    for member in (1, 2, 3, 4):
        index.drop(member)
    assert index.size == 0 and index.of("a") == []
    assert not vars(index)["_members"] and not vars(index)["_topics"]
