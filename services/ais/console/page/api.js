// Asks the console's server. A cookie says who asks.
export class Refused extends Error {}

async function answer(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  const response = await fetch(`api/${path}?${query}`, { signal: AbortSignal.timeout(20000) });
  if (response.status === 401) throw new Refused("The console was started anew: open the address that it has printed.");
  if (!response.ok) throw new Error(`The console answered ${response.status} to ${path}.`);
  return response;
}

export const ask = async (path, parameters = {}) => (await answer(path, parameters)).json();
export const askText = async (path, parameters = {}) => (await answer(path, parameters)).text();
