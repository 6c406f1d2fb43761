"""Write docs/command.md: the command line, with the options of other trainers from the table that reads them.

python docs/make_command_page.py                docs/command.md
python docs/make_command_page.py page.md        another file
"""

from __future__ import annotations

import sys
from pathlib import Path

from preflab.recipes.command import COMMANDS
from preflab.settings.fields import flag
from preflab.settings.habits import HABITS, Habit

PAGE = Path(__file__).parent / "command.md"
TEXT = """<!-- Made by python docs/make_command_page.py; change that, not this. -->

# The command line

{commands}

`python recipes/compare.py …` in a clone is the same as `preflab compare …`.

## Help

| ask | get |
|---|---|
| `preflab compare --help` | what it does, three examples, the options that people change |
| `preflab compare --help all` | every option, with what it does and may be |
| `preflab compare --help ppo dpo` | the settings of methods; `my.py:Class` too |
| `preflab train ppo --help` | the same of one method, whose settings need no prefix |
| `preflab methods ppo` | what a method is, what it learns from, and the fields of its own |

Values are those that the command would use with the options and the `--config` file beside it: they follow from the
world, the size of the model and `--quick`. `auto`, or nothing, is shown with what it stands for, where that is known
before anything is loaded.

## How options are written

- `--learning-rate` and `--learning_rate` are one. So are `--dpo.beta` and `--DPO.beta`, `online-dpo` and
  `Online_DPO`.
- Settings of methods stand in sections, `--dpo.beta 0.2`; those of a kind of methods too, `--pair.beta 0.2` for all
  that learn from pairs, `--sampled.max-steps 50` for all that sample. `preflab train dpo` takes its method's without
  a prefix.
- Lists are several words, or one with commas: `--seeds 0 1 2`, `--seeds 0,1,2`. Of an option given twice
  the last counts, and a line says so; `--models` of `preflab evaluate` adds.
- `--report`, `--report true`, `--no-report`, `--report false`.
- A value that begins with a dash goes behind an equals sign: `--system=--x`.
- The same names stand in a YAML file, `--config mine.yaml`, methods as sections; options override it.

What is wrong is answered in a line, with status 2, before torch is imported: an option that is a method's by its
section (`--beta`: write `--dpo.beta`), a misspelling by what is near, a section of a method that is not trained here,
a value by its choices, a file of data in which no row can be used by what its columns are. A run that is refused
leaves no folder behind that was not there.

## Where models compute

`--device auto` is the GPU where torch sees one, else the CPU; `cpu`, `cuda`, `cuda:1` and `mps` say which. GPUs that
are not chosen are hidden from every library, as `CUDA_VISIBLE_DEVICES` does it; under that variable, GPUs are counted
among those that it shows. One process computes on one device: of several GPUs, `--workers` and launchers give each
process one ([processes.md](processes.md)). Keys of stages do not depend on it, so that a run can go on elsewhere.

## Options of other trainers

What means the same in TRL, transformers or PEFT is taken by its name there:

| there | here |
|---|---|
{taken}

What does not is answered by what to use:

| there | answer |
|---|---|
{answered}

All other names of `transformers.TrainingArguments` that preflab has are the library's own:
`--per-device-train-batch-size`, `--gradient-accumulation-steps`, `--num-train-epochs`, `--report-to`, ….

## Completion

```sh
preflab completion bash >> ~/.bashrc
preflab completion zsh >> ~/.zshrc
preflab completion fish > ~/.config/fish/completions/preflab.fish
```

Commands, methods, options (`--dpo.` and then its fields), choices; files elsewhere. The shell asks `preflab` itself,
so that installed packages of methods are completed too."""


def page() -> str:
    """Return the page as Markdown."""
    commands = ["| command | what |", "|---|---|", *(f"| `preflab {n}` | {c.about} |" for n, c in COMMANDS.items())]
    taken = [f"| `--{name}` | {_here(habit)} |" for name, habit in HABITS.items() if habit.field]
    answered = [f"| `--{name}` | {habit.answer} |" for name, habit in HABITS.items() if not habit.field]
    return TEXT.format(commands="\n".join(commands), taken="\n".join(taken), answered="\n".join(answered))


def _here(habit: Habit) -> str:
    """Return an option of ours, with the values that others stand for."""
    values = ", ".join(f"{theirs}: `{ours}`" for theirs, ours in habit.values.items() if theirs != ours)
    alike = ", ".join(f"`{ours}`" for theirs, ours in habit.values.items() if theirs == ours)
    more = values or (f"with {alike}; else: {habit.answer}" if alike else "")
    return f"`{flag(habit.field)}`" + (f" ({more})" if more else "")


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(page(), encoding="utf-8")
    print(f"written to {path}")
