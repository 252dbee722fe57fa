"""completion: a script for bash, zsh or fish, generated from the tables that parse the command line.

The script knows every verb and option by itself; it starts `bireme` only to list containers, images and the like.
"""

from __future__ import annotations

from bireme.cli.errors import CommandFailed
from bireme.cli.index import ENTRIES, GROUPS
from bireme.cli.option import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation

_LISTS = {
    "containers": "bireme ps -a --format '{{.Names}}'",
    "contexts": "bireme context ls -q",
    "running": "bireme ps --format '{{.Names}}'",
    "images": "bireme images --format '{{.Repository}}:{{.Tag}}'",
    "kernels": "bireme kernel ls --format '{{.Release}}'",
    "networks": "bireme network ls --format '{{.Name}}'",
    "volumes": "bireme volume ls -q",
}


class _Command:
    """One spelling of a verb with what may follow it."""

    def __init__(self, words: tuple[str, ...], summary: str, verb: Verb) -> None:
        self.words = words
        self.summary = summary
        self.options = [option for option in verb.options if not option.hidden]
        self.flags = [f"--{option.name}" for option in self.options]
        self.flags += [f"-{option.short}" for option in self.options if option.short]
        self.valued = [f"--{option.name}" for option in self.options if option.kind != "bool"]
        self.valued += [f"-{option.short}" for option in self.options if option.short and option.kind != "bool"]
        self.complete = verb.complete


def _commands() -> list[_Command]:
    from bireme.cli.main import load_verb

    commands = []
    for entry in ENTRIES:
        verb = load_verb(entry)
        words = tuple(entry.path.split())
        if len(words) == 2:
            commands.append(_Command(words, entry.summary, verb))
        if entry.short:
            commands.append(_Command((entry.short,), entry.summary, verb))
    return commands


def _tops(commands: list[_Command]) -> list[str]:
    return sorted({command.words[0] for command in commands} | set(GROUPS))


def _arguments(complete: str) -> str:
    """What the shell runs, or prints, to offer positional arguments."""
    if complete in _LISTS:
        return _LISTS[complete] + " 2>/dev/null"
    if complete == "commands":
        return "printf '%s\\n' " + " ".join(sorted({entry.short for entry in ENTRIES if entry.short}))
    return "printf '%s\\n' " + complete if complete else ""


def bash_script(commands: list[_Command]) -> str:
    rows = []
    for command in commands:
        key = " ".join(command.words)
        rows.append(f'    "{key}") flags="{" ".join(command.flags)} --help"; valued=" {" ".join(command.valued)} "')
        if command.complete:
            rows.append(f'      list="{_arguments(command.complete)}"')
        rows.append("      ;;")
    groups = "\n".join(
        f'    {group}) words="{" ".join(c.words[1] for c in commands if len(c.words) == 2 and c.words[0] == group)}" ;;'
        for group in GROUPS
    )
    body = "\n".join(rows)
    return f"""# bash completion for bireme; put it into /etc/bash_completion.d or: source <(bireme completion bash)
_bireme() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} first="" second="" index word words="" key
  local flags="" valued="" list=""
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=${{COMP_WORDS[index]}}
    case $word in
      -H|--host|-c|--context|--config|--tlscacert|--tlscert|--tlskey) ((index++)) ;;
      -*) ;;
      *) if [[ -z $first ]]; then first=$word; elif [[ -z $second ]]; then second=$word; break; fi ;;
    esac
  done
  if [[ -z $first ]]; then
    COMPREPLY=($(compgen -W "{" ".join(_tops(commands))} --host --context --config --debug --version --help" -- "$cur"))
    return
  fi
  case $first in
{groups}
  esac
  if [[ -n $words && -z $second ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    return
  fi
  key=$first
  [[ -n $words ]] && key="$first $second"
  case $key in
{body}
    *) return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  elif [[ $valued == *" $prev "* ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  elif [[ -n $list ]]; then
    COMPREPLY=($(compgen -W "$(eval "$list")" -- "$cur"))
    type __ltrim_colon_completions &>/dev/null && __ltrim_colon_completions "$cur"
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -F _bireme bireme
"""


def _plain(text: str) -> str:
    """Help text as part of a single-quoted word: one line, no quotes, none of zsh's marks."""
    line = text.split("\n", 1)[0]
    return "".join(" " if char in "'`[]:\\" else char for char in line).strip()


def zsh_script(commands: list[_Command]) -> str:
    tops = [(command.words[0], command.summary) for command in commands if len(command.words) == 1]
    tops += list(GROUPS.items())
    top_rows = "\n".join(f"    '{name}:{_plain(summary)}'" for name, summary in sorted(tops))
    group_rows = "\n".join(
        f"    {group}) verbs=(" + " ".join(_verb_words(commands, group)) + ") ;;" for group in GROUPS
    )
    cases = "\n".join(_zsh_case(command) for command in commands)
    return f"""#compdef bireme
# zsh completion for bireme; put it as _bireme into a directory of $fpath
_bireme() {{
  local -a tops verbs
  local key=$words[2]
  tops=(
{top_rows}
  )
  if (( CURRENT == 2 )); then
    _describe command tops
    return
  fi
  case $key in
{group_rows}
  esac
  if (( $#verbs )); then
    if (( CURRENT == 3 )); then
      _describe command verbs
      return
    fi
    key="$words[2] $words[3]"
    shift words; (( CURRENT-- ))
  fi
  shift words; (( CURRENT-- ))
  case $key in
{cases}
  esac
}}
_bireme "$@"
"""


def _verb_words(commands: list[_Command], group: str) -> list[str]:
    return [
        f"'{command.words[1]}:{_plain(command.summary)}'"
        for command in commands
        if len(command.words) == 2 and command.words[0] == group
    ]


def _zsh_case(command: _Command) -> str:
    specs = []
    for option in command.options:
        value = "" if option.kind == "bool" else f":{option.kind}:_files"
        repeat = "*" if option.kind not in ("bool", "string", "int") else ""
        specs.append(f"'{repeat}--{option.name}[{_plain(option.help)}]{value}'")
        if option.short:
            specs.append(f"'{repeat}-{option.short}[{_plain(option.help)}]{value}'")
    tail = "'*:file:_files'"
    if command.complete:
        source = _arguments(command.complete).replace('"', '\\"')
        tail = f'"*:{command.complete.split()[0]}:($({source}))"'
    return f'    "{" ".join(command.words)}") _arguments {" ".join(specs)} {tail} ;;'


def fish_script(commands: list[_Command]) -> str:
    lines = [
        "# fish completion for bireme; put it into ~/.config/fish/completions/bireme.fish",
        "complete -c bireme -f",
    ]
    for group, summary in GROUPS.items():
        lines.append(f"complete -c bireme -n __fish_use_subcommand -a {group} -d '{_plain(summary)}'")
    for command in commands:
        name, first = command.words[-1], command.words[0]
        if len(command.words) == 1:
            lines.append(f"complete -c bireme -n __fish_use_subcommand -a {name} -d '{_plain(command.summary)}'")
            seen = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(GROUPS)}"
        else:
            condition = f"__fish_seen_subcommand_from {first}; and test (count (commandline -opc)) -eq 2"
            lines.append(f"complete -c bireme -n '{condition}' -a {name} -d '{_plain(command.summary)}'")
            seen = f"__fish_seen_subcommand_from {first}; and __fish_seen_subcommand_from {name}"
        for option in command.options:
            short = f" -s {option.short}" if option.short else ""
            value = "" if option.kind == "bool" else " -r"
            lines.append(f"complete -c bireme -n '{seen}' -l {option.name}{short}{value} -d '{_plain(option.help)}'")
        if command.complete:
            source = _arguments(command.complete).replace("'", '"')
            lines.append(f"complete -c bireme -n '{seen}' -a '({source})'")
    return "\n".join(lines) + "\n"


def show_completion(invocation: Invocation) -> int:
    shell = invocation.args.rest[0]
    scripts = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
    if shell not in scripts:
        raise CommandFailed(f"bireme: no completion for {shell}: choose bash, zsh or fish")
    invocation.out(scripts[shell](_commands()).rstrip("\n"))
    return 0


VERBS = {
    "completion": Verb(
        show_completion,
        "bash|zsh|fish",
        "Print the completion script of a shell",
        args=(1, 1),
        details="  bash:  source <(bireme completion bash)\n"
        "  zsh:   bireme completion zsh > ~/.zfunc/_bireme\n"
        "  fish:  bireme completion fish > ~/.config/fish/completions/bireme.fish",
        complete="bash zsh fish",
    ),
}
