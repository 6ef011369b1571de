"""What is written of an evaluation: tables, figures, one self-contained page, the console summary."""
