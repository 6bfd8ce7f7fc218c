// The description of the API, shown and tried by Swagger UI, with the key that this tab has.
import { BASE, currentKey } from './api.js';

const ui = SwaggerUIBundle({
  dom_id: '#swagger-ui',
  url: `${BASE}/openapi.json`,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: 'list',
  validatorUrl: null, // it would send the document's address to a foreign server
  onComplete: () => {
    if (currentKey()) ui.preauthorizeApiKey('bearer', currentKey());
    document.getElementById('servers')?.setAttribute('aria-label', 'Server');
  },
});
