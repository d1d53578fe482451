"""Teachers: what scores the candidates of a query. A teacher never sees the student."""
