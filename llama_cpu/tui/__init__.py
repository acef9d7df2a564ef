"""The Textual app: screens, widgets, one style sheet.

A widget shows one thing. A controller carries out actions; it knows protocols of the view, not the
screens. A screen connects widgets and controllers, and the app connects screens. The model's work
reaches them as the events of ``llama_cpu.generation.events``.
"""
