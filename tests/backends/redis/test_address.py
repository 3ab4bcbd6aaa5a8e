"""URLs: what they mean, what is refused, and that no message holds a secret."""

import pytest
from hypothesis import given, strategies as st
from redis.connection import parse_url as parse_url_of_redis_py

from kvmcp.backends.redis import RedisOptions, open_backend
from kvmcp.backends.redis.address import Address, Endpoint, parse_url
from kvmcp.backends.redis.greeting import Greeting


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address("standalone", (Endpoint("h", 6379),))),
        ("redis://", Address("standalone", (Endpoint("localhost", 6379),))),
        ("redis://h:1/2", Address("standalone", (Endpoint("h", 1),), db=2)),
        ("redis://h/?db=3", Address("standalone", (Endpoint("h", 6379),), db=3)),
        ("REDIS://:p@[::1]:7/0", Address("standalone", (Endpoint("::1", 7),), password="p", db=0)),
        (
            "rediss://u%40x:p%2F%3A%25@h",
            Address("standalone", (Endpoint("h", 6379),), True, "u@x", "p/:%"),
        ),
        ("unix:///run/r.sock", Address("standalone", (Endpoint(path="/run/r.sock"),))),
        (
            "unix://u:p@/run/a%20b.sock?db=2",
            Address("standalone", (Endpoint(path="/run/a b.sock"),), username="u", password="p", db=2),
        ),
        (
            "redis+sentinel://u:p@a:1,b/my%2Fservice/3",
            Address("sentinel", (Endpoint("a", 1), Endpoint("b", 26379)), False, "u", "p", 3, "my/service"),
        ),
        ("rediss+sentinel://a/s", Address("sentinel", (Endpoint("a", 26379),), True, service="s")),
        ("redis+cluster://a:1,b", Address("cluster", (Endpoint("a", 1), Endpoint("b", 6379)))),
        ("redis+cluster://a:1/0", Address("cluster", (Endpoint("a", 1),), db=0)),
    ],
)
def test_what_a_url_means(url: str, address: Address) -> None:
    assert parse_url(url) == address


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"http://u:{SECRET}@h",
        f"redis://u:{SECRET}@h:port",
        f"redis://u:{SECRET}@h:0",
        f"redis://u:{SECRET}@h:65536",
        f"redis://u:{SECRET}@h:",
        f"redis://u:{SECRET}/x@h",
        f"redis://u:{SECRET}#x@h",
        f"redis://u:{SECRET} @h",
        f"redis://u:{SECRET}@a%00b",
        f"unix://u:{SECRET}@/run/a%00b",
        f"redis://u:{SECRET}@h/name",
        f"redis://u:{SECRET}@h/-1",
        f"redis://u:{SECRET}@a,b",
        f"redis://u:{SECRET}@[::1",
        f"redis://u:{SECRET}@::1",
        f"redis://u:{SECRET}@h?timeout=1",
        f"redis://u:{SECRET}%ff@h",
        f"unix://u:{SECRET}@",
        f"unix://{SECRET}@host/path",
        f"redis+sentinel://u:{SECRET}@a:1",
        f"redis+sentinel://u:{SECRET}@a:1/",
        f"redis+sentinel://u:{SECRET}@/s",
        f"redis+cluster://u:{SECRET}@a/1",
    ],
)
def test_a_wrong_url_is_one_clear_line_without_the_secret(url: str) -> None:
    with pytest.raises(ValueError, match="^Redis URL: ") as caught:
        open_backend(url, RedisOptions())
    message = str(caught.value)
    assert SECRET not in message
    assert "\n" not in message and len(message) < 200


def test_no_repr_has_a_secret() -> None:
    address = parse_url(f"redis+sentinel://u:{SECRET}@a,b/s/2")
    options = RedisOptions(password=SECRET, sentinel_password=SECRET)
    shown = [repr(address), repr(options), repr(Greeting(username="u", password=SECRET))]
    assert not any(SECRET in text for text in shown)
    assert shown[0] == "Address(sentinel, a:26379,b:26379, tls=False, db=2, service='s')"


@pytest.mark.parametrize(
    "options",
    [
        RedisOptions(key_prefix=""),
        RedisOptions(key_prefix="a:b"),
        RedisOptions(key_prefix="a{b"),
        RedisOptions(op_timeout=0),
        RedisOptions(connect_timeout=float("nan")),
        RedisOptions(max_connections=1),
        RedisOptions(db=-1),
    ],
)
def test_wrong_options(options: RedisOptions) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_ ]+: "):
        open_backend("redis://h", options)


_part = st.text(st.characters(codec="ascii", min_codepoint=33), max_size=8).map(
    lambda text: "".join(c if c.isalnum() or c in "-._~" else f"%{ord(c):02X}" for c in text)
)


@given(
    st.sampled_from(["redis", "rediss"]), _part, _part, st.integers(1, 65535), st.none() | st.integers(0, 99)
)
def test_redis_py_reads_the_same(scheme: str, user: str, password: str, port: int, db: int | None) -> None:
    url = f"{scheme}://{user}:{password}@example.org:{port}" + ("" if db is None else f"/{db}")
    ours, theirs = parse_url(url), parse_url_of_redis_py(url)  # type: ignore[no-untyped-call]  # upstream
    assert ours.endpoints == (Endpoint(theirs["host"], theirs["port"]),)
    assert (ours.username, ours.password) == (theirs.get("username", ""), theirs.get("password", ""))
    assert ours.db == theirs.get("db")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for url in (text, f"redis://{text}", f"unix://{text}", f"redis+sentinel://{text}"):
        try:
            parse_url(url)
        except ValueError as error:
            assert str(error).startswith("Redis URL: ")
