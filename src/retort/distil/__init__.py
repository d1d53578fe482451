"""Training a student on a teacher's labels. Five seams meet in loop.py: view, target policy, objective, weighter, roster."""
