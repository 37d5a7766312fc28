"""Numbers with their nouns, for sentences: ``1 check``, ``2 checks``, ``3 deliveries``."""


def counted(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
