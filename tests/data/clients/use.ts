// What a program in TypeScript does with its generated client: one call of each kind, and the types of what it answers.
import { createDepthMap, getArtwork, listArtworks, type ArtworkWebhookPayload, type DepthMapRequest } from './generated';
import { client } from './generated/client.gen';

client.setConfig({ baseUrl: process.env.DEPTH!, auth: () => process.env.KEY! });

export function received(message: ArtworkWebhookPayload): string {
  return `${message.id} ${message.status}`;
}

async function main(): Promise<void> {
  const body: DepthMapRequest = { imageUrl: 'https://example.com/photo.jpg', model: 'tiny', resolutionLowerLimit: 256 };
  const made = await createDepthMap({ body, headers: { 'Idempotency-Key': 'from-typescript' }, throwOnError: true });
  const found = await getArtwork({ path: { artwork_id: made.data.id }, throwOnError: true });
  const listed = await listArtworks({ query: { status: 'starting', limit: 1 }, throwOnError: true });
  const refused = await createDepthMap({ body: { ...body, model: 'mono_large' } });
  if (listed.data[0]?.id !== found.data.id) throw new Error('the list has another artwork first');
  console.log(JSON.stringify([found.data.parameters.model, refused.error?.statusCode, received(found.data)]));
}

void main();
