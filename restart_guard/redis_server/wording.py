"""Why a Redis server could not be used, as text, and what to do. Pure."""

from restart_guard.alerts.wording import Language, clip, say
from restart_guard.errors import StoreError

# The server's own code or one of ours → the problem and what to do, after "redis <server>".
_TROUBLES: dict[str, tuple[str, str]] = {
    "refused": ("拒绝连接：请确认 Redis 正在运行", "refuses connections: is it running?"),
    "timeout": ("没有及时应答：可能已挂起或网络不通", "does not answer in time: it, or the network, hangs"),
    "unreachable": ("无法访问：请检查地址和网络", "cannot be reached: check its address and the network"),
    "closed": ("中断了连接", "closed the connection"),
    "tls": ("TLS 握手失败：请检查证书和 ca_file", "fails the TLS handshake: check the certificate and ca_file"),
    "tls_file": ("的证书文件无法读取：{text}", "needs a certificate file for TLS: {text}"),
    "LOADING": ("正在加载数据", "is still loading its data"),
    "READONLY": ("是只读副本：可能正在切换主节点", "is a read-only replica: a failover may be under way"),
    "MASTERDOWN": ("与主节点断开：可能正在切换主节点", "has lost its master: a failover may be under way"),
    "no_master": ("Sentinel 当前没有主节点", "has no master at the moment, the Sentinels say"),
    "CLUSTERDOWN": ("集群不可用", "is a cluster that is down"),
    "TRYAGAIN": ("正在迁移槽位", "is moving slots"),
    "NOREPLICAS": ("可用副本不足", "has too few good replicas"),
    "BUSY": ("正在执行耗时脚本", "is busy running a script"),
    "NOAUTH": ("需要密码：请设置 [redis] password", "requires a password: set [redis] password"),
    "WRONGPASS": (
        "拒绝了用户名或密码：请检查 [redis] username 和 password",
        "refuses the user name or password: check [redis] username and password",
    ),
    "NOPERM": (
        "不允许该用户执行所需操作：请检查 ACL（{text}）",
        "does not allow this user what is needed: check the ACL ({text})",
    ),
    "maxclients": ("没有空闲连接：已达到 maxclients", "has no free connection: its maxclients is reached"),
    "unsynced": (
        "是与主节点断开的副本，数据不完整或已过时",
        "is a replica without its master, so its data is old or not all there",
    ),
    "MISCONF": ("无法保存到磁盘：请检查磁盘空间", "cannot save to disk: check its disk"),
    "OOM": ("内存已满", "is out of memory"),
    "cluster": (
        "是 Redis Cluster：本工具读取单机或 Sentinel",
        "is a Redis Cluster; only single servers and Sentinel services can be read",
    ),
    "protocol": ("的应答无法理解：{text}", "sent an answer that cannot be understood: {text}"),
    "sentinel": ("无法通过 Sentinel 访问：{text}", "cannot be reached through its Sentinels: {text}"),
    "secret": ("的密码无法读取：{text}", "cannot be used, because its password cannot be read: {text}"),
    "bug": ("没有检查完：restart-guard 内部错误（{text}）", "was not checked to the end: a bug of ours ({text})"),
    "memory": ("的值太大：本机内存不足", "holds values for which this host has too little memory"),
    "slow": ("读取未能在限定时间内完成：{text}", "could not be read within the check's timeout: {text}"),
}


def trouble(error: StoreError, server: str, language: Language) -> str:
    """Why a server could not be read, with its own code, and what to do."""
    if error.code not in _TROUBLES:
        return f"{server}: {clip(str(error), 300)}"
    code = f" ({error.code})" if error.code.isupper() else ""
    return f"{server} {say(_TROUBLES, error.code, language, text=clip(str(error), 300))}{code}"
