"""Teachers behind an OpenAI-compatible HTTP server: likelihoods of given texts, and judges that grade or rank."""
