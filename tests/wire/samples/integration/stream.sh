curl -N http://localhost:8000/v1/chat/completions \
  -H "Content-Type: application/json" \
  -d '{
    "model": "5518949f-3ebc-4082-af01-fa2a18623da6",
    "messages": [{"role": "user", "content": "Tell me a short story about a fox."}],
    "stream": true
  }'
