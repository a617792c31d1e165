"""How good generated images are: a file per kind of metric, the table of all of them, and what adds images up."""
