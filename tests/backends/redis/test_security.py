"""TLS, passwords and ACLs on a real server: what works works, and each thing that is wrong is one clear error."""

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from kvmcp.backends.ops import (
    Atomic,
    Change,
    Code,
    Failure,
    Get,
    HashSet,
    KeyIs,
    Namespace,
    Publish,
    Scan,
    Set,
)
from kvmcp.backends.redis import RedisOptions
from kvmcp.backends.redis.errors import BY_CLASS
from tests.backends.contract import BackendContract
from tests.backends.harness import Store, next_event
from tests.backends.redis.certificates import Authority
from tests.backends.redis.conftest import let_time_pass
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_at, backend_on, eventually

pytestmark = pytest.mark.anyio
PASSWORD = "pa/ss:w@rd%"
ENCODED = "pa%2Fss%3Aw%40rd%25"
_numbers = count()


class Secured:
    """A TLS server that wants a client certificate and a password, and who signed what."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ca", "ca")
        self.stranger = Authority(folder / "stranger", "stranger")
        certificate, key = self.authority.issue("server")
        client, client_key = self.authority.issue("client")
        rules = [
            f"user default on >{PASSWORD} ~* &* +@all",
            *(f"user {name} {rule}" for name, rule in USERS.items()),
        ]
        (folder / "users.acl").write_text("\n".join(rules) + "\n")
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        files += [
            "--tls-ca-cert-file",
            str(self.authority.certificate),
            "--aclfile",
            str(folder / "users.acl"),
        ]
        self.server = RedisServer(folder / "server", files, tls=True)
        self.options = RedisOptions(
            tls_ca=str(self.authority.certificate),
            tls_cert=str(client),
            tls_key=str(client_key),
            patience=0.2,
        )

    def url(
        self, user: str = "", password: str = ENCODED, scheme: str = "rediss", host: str = "127.0.0.1"
    ) -> str:
        return f"{scheme}://{user}:{password}@{host}:{self.server.port}"


USERS = {
    "reader": f"on >{PASSWORD} ~kvmcp:* &* +@all -set -@scripting -publish",
    "least": f"on >{PASSWORD} ~kvmcp:* &kvmcp:* -@all "
    "+hello +auth +select +client|setname +client|tracking +multi +exec +evalsha +eval "
    "+script|load +scan +time +get +set +del +exists +type +pttl +pexpire +pexpiretime +persist "
    "+rename +dump +restore +strlen +setrange +getdel +incrby +lpush +rpush +lpop +rpop +llen "
    "+lrange +lrem +ltrim +hset +hget +hmget +hdel +hexists +hlen +hkeys +hstrlen +sadd +srem "
    "+scard +smembers +sismember +smismember +zadd +zrem +zcard +zcount +zscore +zmscore "
    "+zincrby +zrange +zrangebyscore +zrank +zrevrank +xadd +xdel +xlen +xtrim +xrange "
    "+xrevrange +publish +subscribe +unsubscribe",
    "partial": f"on >{PASSWORD} ~kvmcp:* &* +@all -hset",
    "elsewhere": f"on >{PASSWORD} ~other:* &other:* +@all",
}
"""`least` is the smallest profile that everything works with; ROLE, INFO and PING may be missing."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    secured = Secured(tmp_path_factory.mktemp("secured"))
    secured.server.start()
    yield secured
    secured.server.kill()


class TestTls(BackendContract):
    """The whole contract over TLS, as the user with the fewest rights."""

    @pytest.fixture
    async def store(self, secured: Secured) -> AsyncIterator[Store]:
        async with backend_at(secured.url("least"), secured.options) as backend:
            yield Store(backend, let_time_pass, Namespace(f"tls{next(_numbers)}"))


async def failure(url: str, options: RedisOptions) -> Failure:
    """The refusal of a read; one that a second attempt does not change."""
    namespace = Namespace("refused")
    async with backend_at(url, options) as backend:
        (first,) = await backend.execute([Get(namespace.key("a"))])
        (second,) = await backend.execute([Set(namespace.key("a"), b"1")])
    assert isinstance(first, Failure) and first == second
    assert PASSWORD not in first.message and "\n" not in first.message
    return first


async def test_a_certificate_of_somebody_elses_authority(secured: Secured) -> None:
    options = replace(secured.options, tls_ca=str(secured.stranger.certificate))
    refusal = await failure(secured.url(), options)
    assert (refusal.code, refusal.retryable) == (Code.REDIS_ERROR, False)
    assert "not trusted" in refusal.message


async def test_a_certificate_for_another_name(secured: Secured, tmp_path: Path) -> None:
    certificate, key = secured.authority.issue("other", "DNS:example.org")
    ca = str(secured.authority.certificate)
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", ca]
    server = RedisServer(tmp_path / "other", [*files, "--tls-auth-clients", "no"], tls=True).start()
    try:
        refusal = await failure(f"rediss://127.0.0.1:{server.port}", secured.options)
    finally:
        server.kill()
    assert "not trusted" in refusal.message and not refusal.retryable


async def test_no_client_certificate(secured: Secured) -> None:
    refusal = await failure(secured.url(), replace(secured.options, tls_cert="", tls_key=""))
    assert refusal.code in (Code.REDIS_ERROR, Code.REDIS_NOT_CONNECTED)
    # With TLS 1.3 the server refuses after the handshake; whether its reason arrives is a race with its reset.
    assert any(word in refusal.message for word in ("handshake", "closed", "certificate", "reset"))


async def test_a_file_that_is_missing(secured: Secured) -> None:
    refusal = await failure(secured.url(), replace(secured.options, tls_ca="/nonexistent/ca.pem"))
    assert "no such file" in refusal.message


async def test_plain_to_tls_and_tls_to_plain(secured: Secured, shared_server: RedisServer) -> None:
    plain = await failure(secured.url(scheme="redis"), secured.options)
    assert plain.code is Code.REDIS_NOT_CONNECTED
    tls = await failure(
        f"rediss://127.0.0.1:{shared_server.port}", RedisOptions(patience=0.2, connect_timeout=0.3)
    )
    assert "TLS" in tls.message and tls.code is Code.REDIS_NOT_CONNECTED


async def test_verification_can_be_turned_off(secured: Secured) -> None:
    options = replace(secured.options, tls_ca="", tls_verify=False)
    async with backend_at(secured.url(), options) as backend:
        assert await backend.execute([Get(Namespace("n").key("absent"))]) == [None]


async def test_no_password(secured: Secured) -> None:
    assert await failure(f"rediss://127.0.0.1:{secured.server.port}", secured.options) == BY_CLASS["NOAUTH"]


@pytest.mark.parametrize("user", ["", "least", "nobody"])
async def test_a_wrong_password(secured: Secured, user: str) -> None:
    assert await failure(secured.url(user, "wrong"), secured.options) == BY_CLASS["WRONGPASS"]


async def test_a_password_from_a_file_and_its_rotation(server: RedisServer, tmp_path: Path) -> None:
    key = Namespace("n").key("a")
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    server.ask("config", "set", "requirepass", "right")
    server.password = "right"
    async with backend_on(server.port, RedisOptions(password_file=str(secret), patience=0.1)) as backend:
        (refusal,) = await backend.execute([Get(key)])
        assert refusal == BY_CLASS["WRONGPASS"]
        secret.write_text("right\n")
        assert await eventually(backend, Get(key)) is None
    missing = RedisOptions(password_file=str(tmp_path / "missing"), patience=0.1)
    assert "no such file" in (await failure(server.url, missing)).message


async def test_a_user_without_a_command(secured: Secured) -> None:
    a = Namespace("acl").key("a")
    denied = BY_CLASS["NOPERM"]
    async with backend_at(secured.url("reader"), secured.options) as backend:
        replies = await backend.execute(
            [
                Set(a, b"1"),
                Get(a),
                Publish(a, b"1"),
                Atomic((Get(a), Set(a, b"1"))),
                Atomic((Get(a),), (KeyIs(a, None),)),
            ]
        )
    assert replies == [denied, None, denied, denied, denied]


async def test_a_right_that_is_missing_in_the_middle(secured: Secured) -> None:
    """All or nothing holds here as well."""
    a, b = Namespace("acl").key("new"), Namespace("acl").key("hash")
    async with backend_at(secured.url("partial"), secured.options) as backend:
        replies = await backend.execute(
            [
                Atomic((Set(a, b"1"), HashSet(b, (("f", b"1"),)))),
                Atomic((Set(a, b"1"), Publish(b, b"1"))),
                Get(a),
            ]
        )
    assert replies == [BY_CLASS["NOPERM"], BY_CLASS["NOPERM"], None]


async def test_a_user_without_the_keys(secured: Secured) -> None:
    a = Namespace("acl").key("a")
    denied = BY_CLASS["NOPERM"]
    async with backend_at(secured.url("elsewhere"), secured.options) as backend:
        assert await backend.execute([Get(a), Set(a, b"1"), Publish(a, b"1")]) == [denied] * 3


async def test_rights_that_change_under_way(secured: Secured) -> None:
    a = Namespace("acl").key("b")
    async with backend_at(secured.url("least"), secured.options) as backend, backend.watch([a]) as events:
        async with backend_at(secured.url(), secured.options) as admin:
            assert await admin.execute([Set(a, b"1")]) == [True]
        assert await next_event(events) == Change(a)
        assert await backend.execute([Get(a), Scan(Namespace("nobody").space())]) != []


async def test_a_unix_socket(tmp_path: Path, namespace: Namespace) -> None:
    path = (
        Path("/tmp") / f"kvmcp-{namespace.name}-{tmp_path.name}.sock"
    )  # a socket's path has 107 bytes at most
    server = RedisServer(tmp_path / "unix", ["--unixsocket", str(path)]).start()
    try:
        async with backend_at(f"unix://{path}?db=3") as backend:
            a = namespace.key("a")
            assert await backend.execute([Set(a, b"1"), Get(a)]) == [True, b"1"]
        assert server.ask("-n", "3", "dbsize") == "1"
    finally:
        await anyio.to_thread.run_sync(server.kill)
        path.unlink(missing_ok=True)
