"""The Textual app: screens, widgets, one style sheet.

The app wires screens together, a screen wires widgets together, a widget shows one thing. What
the model does reaches them as the few small events of ``llama_cpu.generation.events``.
"""
