"""The study's section of the report: what is drawn, what the sources say, how it is judged, what was found."""
