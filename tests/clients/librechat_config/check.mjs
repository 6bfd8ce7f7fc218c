// Reads LibreChat's configuration as LibreChat does; `check.mjs` gets it on standard input, as JSON.
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';

const { configSchema, mapModelToAzureConfig, validateAzureGroups } = createRequire(import.meta.url)('librechat-data-provider');

const config = JSON.parse(await text(process.stdin));
const { success, error } = configSchema.strict().safeParse(config);
const groups = config.endpoints.azureOpenAI?.groups;
const { isValid, errors, modelNames, modelGroupMap, groupMap } = groups ? validateAzureGroups(groups) : { isValid: true };
const models = isValid ? modelNames?.map((modelName) => mapModelToAzureConfig({ modelName, modelGroupMap, groupMap })) : undefined;
console.log(JSON.stringify({ success: success && isValid, errors: error?.issues ?? errors, models }));
