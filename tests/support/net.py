"""Network namespaces of a test's own, joined by a bridge, whose links can be cut."""

import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Self

from tests.support.servers import find_program


class Net:
    """A namespace for each name, with an address; all reach one another through a switch in a namespace of its own."""

    def __init__(self, *names: str) -> None:
        self._mark = uuid.uuid4().hex[:6]
        self._names = names
        self._switch = f"rg{self._mark}-switch"
        self.address = {name: f"10.199.0.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self) -> Self:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self._names:
            space, port = self._space(name), self._port(name)
            _ip("netns", "add", space)
            _ip("link", "add", port, "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "address", "add", f"{self.address[name]}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for space in (*map(self._space, self._names), self._switch):
            _ip("netns", "delete", space)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)

    def inside(self, name: str) -> list[str]:
        """What stands before a command that is to run there."""
        return [find_program("ip"), "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """What is sent there or from there vanishes."""
        _ip("-n", self._switch, "link", "set", self._port(name), "down")

    def heal(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", self._port(name), "up")

    def can_lose(self) -> bool:
        """Whether the kernel has nftables."""
        (name, *_) = self._names
        probe = [*self.inside(name), find_program("nft"), "add table inet probe"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    def lose(self, name: str, percent: int) -> None:
        """So many of the packets that arrive there are dropped, by chance; 0 ends it."""
        rules = (
            "add table inet loss; delete table inet loss; add table inet loss; "
            "add chain inet loss arriving { type filter hook input priority 0; }; "
            f"add rule inet loss arriving numgen random mod 100 < {percent} drop"
        )
        subprocess.run([*self.inside(name), find_program("nft"), rules], check=True)

    def ask_names_of(self, name: str, *servers: str) -> None:
        """Where programs that are started there from now on ask for names; see ip-netns(8)."""
        folder = Path("/etc/netns") / self._space(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text("".join(f"nameserver {server}\n" for server in servers))

    def keep_apart(self, *names: str, apart: bool = True) -> None:
        """These do not reach one another, but all others."""
        for name in names:
            isolated = "on" if apart else "off"
            _ip("-n", self._switch, "link", "set", self._port(name), "type", "bridge_slave", "isolated", isolated)

    def _space(self, name: str) -> str:
        return f"rg{self._mark}-{name}"

    def _port(self, name: str) -> str:
        return f"p-{name}"


def _ip(*words: str) -> None:
    subprocess.run([find_program("ip"), *words], check=True)
