"""Is it better, by how much, and is it significant? Measures per query, their intervals and floors, and the report.

metrics: a Run or a reader's answers -> one value per query. agreement: a student's scores against a teacher's.
floors: what has_answer@k gives to chance. significance: intervals and paired tests. report: one HTML page of it all.
"""
