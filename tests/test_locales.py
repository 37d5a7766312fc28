"""Everything is UTF-8, whatever the locale and the editors of the operator's machine."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Guard, job
from tests.support.fake_wecom import FakeWeCom
from tests.support.servers import RedisServer, find_program
from tests.support.services import Service

BOM = b"\xef\xbb\xbf"


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real locales that are not UTF-8."""
    folder = tmp_path_factory.mktemp("locales")
    for source, charmap, name in (("zh_CN", "GBK", "zh_CN.GBK"), ("en_US", "ISO-8859-1", "en_US")):
        done = subprocess.run([find_program("localedef"), "-i", source, "-f", charmap, folder / name], check=False)
        assert (folder / name).exists(), f"{done}: is the package locales installed?"
    return folder


@pytest.mark.process
@pytest.mark.parametrize("name", ["zh_CN.GBK", "en_US"])
def test_a_locale_of_another_encoding(
    guard: Guard, redis_server: RedisServer, wecom: FakeWeCom, locales: Path, name: str
) -> None:
    """A program, a key and a folder with Chinese names are started, judged, told and found again, all in UTF-8; the
    program does not inherit our way to get there."""
    guard.environ |= {"LOCPATH": str(locales), "LC_ALL": name, "LANG": name}
    folder = guard.directory / "数据"
    folder.mkdir()
    service = Service(guard)
    text = (
        job(redis_server, None, wecom, "retries = 0")
        .replace("your_data_key", "用户:键")
        .replace("metadata", "'元数据'")
    )
    section = service.section().replace("[targets.web]", "[targets.'网站']")
    guard.configure(text + section.replace(str(service.log), f"{folder}/日志.log"))
    try:
        started = run(guard, "start", "网站")
        assert (started.returncode, "网站: started, pid " in started.stdout) == (0, True), started
        assert (folder / "日志.log").exists()
        checked = run(guard, "check-redis")
        assert "元数据: FAILED: 1 of 1 key bad (用户:键 is missing)" in checked.stdout, checked
        assert "用户:键" in wecom.texts[0]
        assert "网站" in run(guard, "history", "--target", "网站").stdout
        environ = Path(f"/proc/{service.pid()}/environ").read_bytes()
        assert b"PYTHONUTF8" not in environ
        assert f"LC_ALL={name}".encode() in environ
    finally:
        run(guard, "stop")
        service.end()


def run(guard: Guard, *words: str) -> "subprocess.CompletedProcess[str]":
    """A start of its own: a fork of the warm interpreter would have its encoding."""
    return subprocess.run(
        guard.command(*words),
        cwd=guard.directory,
        env=guard.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.process
def test_byte_order_marks_and_final_newlines(guard: Guard, service: Service) -> None:
    """Windows' editors put the one before a config, a secret and an environment file, shells the other behind."""
    (guard.directory / "secret").write_bytes(BOM + b"from-a-file-01\r\n")
    (guard.directory / "environment").write_bytes(BOM + "NAME=值\n".encode())
    service.configure(options='environment_file = "environment"')
    guard.config.write_bytes(
        BOM + guard.config.read_bytes() + b'[redis]\npassword = { file = "secret" }\nusername = "x"\n'
        b'[mysql]\nuser = "u"\ndatabase = "d"\nhost = "127.0.0.1"\nport = 1\npassword = { env = "RG_PW" }\n'
    )
    config = guard("status")
    assert (config.code, config.err) == (3, ""), config
    assert guard("start").code == 0
    assert "NAME=值".encode() in Path(f"/proc/{service.pid()}/environ").read_bytes()
