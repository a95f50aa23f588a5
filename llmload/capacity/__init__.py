"""The search for the highest load that meets its objectives: which load to try, how a step is judged, the result."""
