"""Data before training: looked through (audit), written as shards (build), and shown as the model will see it (peek)."""
