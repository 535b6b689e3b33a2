"""What a report on a bundle says: numbers, tables and pictures by kind of model, on one page of HTML."""
