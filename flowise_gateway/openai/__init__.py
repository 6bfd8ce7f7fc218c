"""OpenAI's wire, pure: what chat completions, completions and Responses share."""
