"""Libraries that take this one as their engine: `joblib`, and with it scikit-learn.

Each module needs its library, and is imported by who wants it.
"""
