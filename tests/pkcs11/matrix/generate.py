"""functions.txt as C: what the test calls, with what, and which codes may come."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# How many words of a call each kind of argument is, and what the words are: a pointer (p) or a number (n).
KINDS = {
    "session": "n",
    "slot": "n",
    "key": "n",
    "object": "n",
    "wrapping": "n",
    "unwrapping": "n",
    "mechanism": "p",
    "starting": "p",
    "input": "pn",
    "empty": "pn",
    "output": "pp",
    "last-output": "pp",
    "list": "pp",
    "found": "pnp",
    "random": "pn",
    "template": "pn",
    "attributes": "pn",
    "result": "p",
    "message-parameter": "pn",
    "text": "p",
    "label": "p",
    "reserved": "p",
    "version": "p",
    "application": "p",
    "notify": "p",
    "number": "n",
}
# What `what` of an argument points at, by its kind.
NAMED = {
    "slot": "&{0}",
    "key": "&{0}",
    "object": "&{0}",
    "wrapping": "&{0}",
    "unwrapping": "&{0}",
    "input": "&{0}",
    "template": "&template_{0}",
    "attributes": "&template_{0}",
}
NUMBERED = {"mechanism": "{0}", "starting": "{0}", "output": "{0}", "last-output": "{0}", "result": "sizeof({0})", "number": "{0}"}
# Functions that may be called before C_Initialize.
WITHOUT_INITIALIZATION = {"C_Initialize", "C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"}


def read_table(text: str) -> list[tuple[str, list[list[str]], str, list[str]]]:
    """(name, arguments, what is in progress, codes) of each function."""
    groups: dict[str, list[str]] = {}
    functions = []

    def codes(words: str) -> list[str]:
        each = [groups[word] if word.startswith("@") else [word.lstrip("+")] for word in words.split()]
        return sum(each, [])

    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            name, words = line.split(" = ")
            groups[name] = codes(words)
            continue
        name, arguments, before, words = (field.strip() for field in line.split("|"))
        allowed = codes(words)
        split = [argument.split() for argument in arguments.split(", ")]
        allowed.append("ARGUMENTS_BAD")
        if name not in WITHOUT_INITIALIZATION:
            allowed.append("CRYPTOKI_NOT_INITIALIZED")
        if ["session"] in split:
            allowed += ["SESSION_HANDLE_INVALID", "SESSION_CLOSED"]
        functions.append((name, split, before, allowed))
    return functions


def prototypes(header: str) -> dict[str, list[str]]:
    """The types of each function's arguments."""
    found = re.findall(r"extern CK_RV (C_\w+)\(([^)]*)\);", header)
    return {name: [" ".join(each.split()) for each in types.split(",")] for name, types in found}


def identifier(word: str) -> str:
    return word.upper().replace("-", "_")


def generate(table: str, header: str) -> str:
    types = prototypes(header)
    functions = read_table(table)
    order = re.findall(r"CK_C_\w+ +(C_\w+) *;", header[header.index("struct CK_FUNCTION_LIST_3_2 {") :].partition("}")[0])
    if [name for name, *_ in functions] != order:
        raise SystemExit("functions.txt does not have the functions of CK_FUNCTION_LIST_3_2 in their order")
    lines = ["/* Made by generate.py. */", '#include "matrix.h"', ""]
    for name, arguments, _, _ in functions:
        shape = "".join(KINDS[kind] for kind, *_ in arguments)
        theirs = "".join("p" if each.endswith("*") or each == "CK_NOTIFY" else "n" for each in types[name])
        if shape != theirs:
            raise SystemExit(f"{name}: the table has {shape}, the standard {theirs}")
        words = ", ".join(f"({each})words[{i}]" for i, each in enumerate(types[name]))
        lines.append(f"static CK_RV call_{name}(const word *words) {{ return list->{name}({words}); }}")
    lines += ["", "const struct function functions[] = {"]
    for name, arguments, before, codes in functions:
        each = []
        for kind, *operand in arguments:
            what = NAMED.get(kind, "NULL").format(*operand)
            number = NUMBERED.get(kind, "0").format(*operand)
            each.append(f"{{{identifier(kind)}, {what}, {number}}}")
        allowed = ", ".join(f"CKR_{code}" for code in codes)
        lines.append(f'    {{"{name}", call_{name}, {{{", ".join(each)}, {{END, NULL, 0}}}},')
        lines.append(f"     before_{before}, (const CK_RV[]){{{allowed}}}, {len(codes)}}},")
    lines += ["};", "", "const char *code_name(CK_RV code) {", "    switch (code) {"]
    lines += [f'    case {code}: return "{code}";' for code in re.findall(r"#define (CKR_\w+) ", header)]
    lines += ['    default: return "an unknown code";', "    }", "}"]
    return "\n".join(lines) + "\n"


def generate_names(table: str) -> str:
    names = [name for name, *_ in read_table(table)]
    lines = ["/* Made by generate.py. */", "enum function_number {"]
    lines += [f"    FUNCTION_{name}," for name in names] + ["    FUNCTIONS", "};"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    header_file, directory = map(Path, sys.argv[1:])
    table_text = (Path(__file__).parent / "functions.txt").read_text()
    (directory / "functions.c").write_text(generate(table_text, header_file.read_text()))
    (directory / "names.h").write_text(generate_names(table_text))
