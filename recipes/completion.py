"""Print what makes a shell complete `preflab`: commands, methods, options, and what an option may be.

    preflab completion bash >> ~/.bashrc
    preflab completion zsh >> ~/.zshrc
    preflab completion fish > ~/.config/fish/completions/preflab.fish

The shell asks `preflab completion words …` for what fits, so that methods of other packages are completed too; where
nothing does, it completes files.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import shown
from preflab.experiment.layers import KINDS
from preflab.experiment.sections import MethodSections
from preflab.method import registry
from preflab.recipes.command import COMMANDS, taken
from preflab.settings.fields import flag, hints_of, marked
from preflab.settings.helping import ALL
from preflab.settings.values import is_switch, words

SCRIPTS = {
    "bash": r"""_preflab() {
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    case ${#COMPREPLY[@]}${COMPREPLY[0]} in 1*.) compopt -o nospace 2>/dev/null ;; esac
}
complete -o bashdefault -o default -F _preflab preflab""",
    "zsh": r"""_preflab() {
    local -a found
    found=(${(f)"$(${words[1]} completion words "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ! $#found )); then
        _files
    else
        compadd -S '' -- ${(M)found:#*.}
        compadd -- ${found:#*.}
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _preflab preflab""",
    "fish": r"""function __preflab_words
    set -l before (commandline -opc)
    set -l found ($before[1] completion words $before[2..-1] (commandline -ct) 2>/dev/null)
    test -n "$found" && string join \n -- $found || __fish_complete_path (commandline -ct)
end
complete -c preflab -f -a '(__preflab_words)'""",
}
"""By shell."""


def main() -> None:
    """Print the script of a shell, or the words that fit behind others.

    Raises:
        UserError: for a shell that there is no script for.
    """
    asked = sys.argv[1:]
    if asked[:1] in (["-h"], ["--help"]):
        return print(__doc__)
    if asked[:1] == ["words"]:
        return print("\n".join(fitting(asked[1:])))
    if len(asked) != 1 or asked[0] not in SCRIPTS:
        named = f"{shown(' '.join(asked))} is no shell that it is known for" if asked else "no shell is named"
        raise UserError(f"completion: {named}; name one of {', '.join(SCRIPTS)}")
    print(SCRIPTS[asked[0]])


def fitting(line: Sequence[str]) -> list[str]:
    """Return the words that fit in the place of the last one, behind the others; none where files do."""
    *before, begun = [word for word in line if word != "="] if line[-1:] != ["="] else [*line[:-1], ""]
    return [word for word in candidates(before, begun) if word.startswith(begun)]


def candidates(before: Sequence[str], begun: str) -> Iterable[str]:
    """Return what may stand behind some words; of options, those of the section that is begun."""
    command, rest = taken(before)
    if not before:
        return (*dict.fromkeys(name.split()[0] for name in COMMANDS), "--help", "--version")
    if command is None:
        return [name.split()[1] for name in COMMANDS if len(before) == 1 and name.startswith(f"{before[0]} ")]
    if command == "plan" and not rest and not begun.startswith("-"):
        return ("train", "compare")
    if command == "plan" and rest[:1] in (["train"], ["compare"]):
        command, rest = rest[0], rest[1:]
    if command in ("train", "methods") and not rest and not begun.startswith("-"):
        return registry.registered()
    if command == "completion":
        return SCRIPTS if not rest else ()
    flat = registry.named(rest[0]) if command == "train" and rest else None
    return _of_options(classes_of(command, flat), COMMANDS[command].session, rest, begun)


def classes_of(command: str, flat: str | None = None) -> dict[str, type]:
    """Return the configs whose fields are a command's options, those of a method's training among them."""
    from preflab.eval.pipeline.session import SHARED

    own = importlib.import_module(f"preflab.recipes.{COMMANDS['compare' if command == 'plan' else command].recipe}")
    configs: Mapping[str, type] = vars(own).get("CONFIGS", {})
    method = (MethodSections().classes(flat, [flat]) or {}) if flat is not None else {}
    return {**(SHARED if COMMANDS[command].session else {}), **configs, **method}


def _of_options(classes: Mapping[str, type], sections: bool, rest: Sequence[str], begun: str) -> Iterable[str]:
    """Return options, or what the last of them may be."""
    hints = hints_of(classes)
    if begun.startswith("-"):
        section, dot, _ = begun.lstrip("-").partition(".")
        if sections and dot:
            return [flag(field, section) for field in hints_of(MethodSections().classes(section, ()) or {})]
        kinds = [f"--{name}." for name in (*registry.registered(), *KINDS)] if sections else []
        return ["--help", "--config", *map(flag, hints), *kinds]
    option = next((word for word in reversed(rest) if word.startswith("--")), "")
    if option in ("--help", "-h"):
        return (ALL, *registry.registered()) if sections else ()
    section, dot, _ = option.lstrip("-").rpartition(".")
    if dot:
        classes = MethodSections().classes(section, ()) or {}
        hints = hints_of(classes)
    name = option.rpartition(".")[2].lstrip("-").replace("-", "_")
    if name in marked(classes, "methods"):
        return registry.registered()
    return _values(hints[name]) if name in hints else ()


def _values(hint: Any) -> tuple[str, ...]:
    return (*words(hint), *(("true", "false") if is_switch(hint) else ()))


if __name__ == "__main__":
    run_recipe(main)
