"""``llama-cpu config``: print all settings with their present values, as a config.toml."""

import argparse

from llama_cpu.cli.options import add_config_arguments


def add_config_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_config_arguments(parser)
    parser.set_defaults(debug=False)


def run_config(args: argparse.Namespace) -> int:
    """Print the settings. Returns the exit code; raises UserError for a broken config.toml."""
    from llama_cpu.settings.generation_settings import Settings
    from llama_cpu.settings.user_config import ENTRIES, sample
    from llama_cpu.tui.actions import KEYED
    from llama_cpu.tui.preferences import preferences_from
    from llama_cpu.tui.user_keys import keys_of

    preferences = preferences_from(args.user_config)
    defaults = {name: getattr(entry, "default", None) for name, entry in ENTRIES.items()}
    keys = {
        name: (keys_of(name, preferences.keymap), action.help) for name, action in KEYED.items()
    }
    print(sample(preferences.config, defaults | Settings().as_dict(), keys), end="")
    return 0
